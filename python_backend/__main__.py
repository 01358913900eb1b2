"""``python -m python_backend serve | doctor | clean | contract``."""

from __future__ import annotations

import sys

from python_backend.launcher.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""Entry of ``python -m client``."""

import sys

from client.terminal import main

if __name__ == "__main__":
    sys.exit(main())

"""Log lines of our models, in the form of Triton's own log."""

from __future__ import annotations

import logging
import sys


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send the log to stderr, which Triton joins to its own. Calling it again changes nothing."""
    root = logging.getLogger("python_backend")
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname).1s %(asctime)s %(name)s: %(message)s"))
        root.addHandler(handler)
        root.setLevel(level)

"""Ties a child process to the life of the one that starts it, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None]:
    """A ``preexec_fn`` after which the kernel kills the child as soon as the *thread* that started it ends.

    So start such children from a thread that lives as long as they should, usually the main thread. Linux only.
    """
    # Looked up before the fork: between fork and exec a child must not load libraries.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def before_exec() -> None:
        if prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            os._exit(127)
        if os.getppid() != parent:  # it ended before prctl: the signal will never come
            os._exit(127)

    return before_exec

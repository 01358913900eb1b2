"""Responses too large for the way back are refused while their client can still be told."""

from __future__ import annotations

import os

import numpy as np
import pytest

from python_backend.errors import Overloaded
from python_backend.triton.tensors import check_shared_memory


def test_a_response_larger_than_the_free_memory_is_refused_with_both_sizes() -> None:
    filesystem = os.statvfs("/dev/shm")
    free_bytes = filesystem.f_bavail * filesystem.f_frsize
    too_large = np.broadcast_to(np.float32(0), (free_bytes // 4 + (1 << 28),))  # takes no memory itself
    with pytest.raises(Overloaded, match=r"a response of \d+ MiB does not fit the \d+ MiB of shared memory"):
        check_shared_memory({"context_logits": too_large})
    check_shared_memory({"context_logits": np.zeros(1 << 19, np.float32)})
    check_shared_memory({})

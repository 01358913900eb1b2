"""INT4 in the checkpoint: two output rows share a byte, the even row in the lower half (ModelOpt's export)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def pack_int4(integers: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """[out, in] of -8 to 7 to [out / 2, in]."""
    nibbles = integers.view(np.uint8) & 15
    return (nibbles[0::2] | nibbles[1::2] << 4).view(np.int8)


def unpack_int4(packed: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Undo ``pack_int4``."""
    integers = np.empty((2 * packed.shape[0], packed.shape[1]), np.int8)
    integers[0::2] = packed << 4 >> 4  # Shifting right keeps the sign.
    integers[1::2] = packed >> 4
    return integers

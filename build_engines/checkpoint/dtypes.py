"""Element types of checkpoints: safetensors' names, TensorRT-LLM's names, and numpy's.

numpy itself has no bfloat16 and no 8-bit float: ``ml_dtypes`` adds them.
"""

from __future__ import annotations

from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

#: A tensor of any of the types below.
Array = npt.NDArray[Any]

#: The types of unquantized weights, as ``config.json`` names them.
DtypeName = Literal["float16", "bfloat16", "float32"]

FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)
FLOAT32 = np.dtype(np.float32)
INT8 = np.dtype(np.int8)
UINT8 = np.dtype(np.uint8)

BY_NAME: dict[str, np.dtype[Any]] = {"float16": FLOAT16, "bfloat16": BFLOAT16, "float32": FLOAT32}

#: safetensors' names.
BY_SAFETENSORS_NAME: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": FLOAT32,
    "F16": FLOAT16,
    "BF16": BFLOAT16,
    "F8_E4M3": FLOAT8,
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": INT8,
    "U8": UINT8,
    "BOOL": np.dtype(np.bool_),
}
SAFETENSORS_NAMES = {dtype: name for name, dtype in BY_SAFETENSORS_NAME.items()}

"""ModelOpt's export, held against the table of tensors before anything of it is used."""

from __future__ import annotations

import numpy as np

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.safetensors_file import SafetensorsFile, TensorType
from build_engines.checkpoint.tensor_table import EMBEDDING, LM_HEAD, tensor_table
from python_backend.errors import SetupError, did_you_mean

KV_CACHE_SCALE = "attention.kv_cache_scaling_factor"
#: Written beside ``KV_CACHE_SCALE``, which is the larger of the two, for later versions of TensorRT-LLM.
_SUPERSEDED = ("attention.k_cache_scaling_factor", "attention.v_cache_scaling_factor")
#: AWQ's exports have an embedding and an lm_head of a multiple of 64 rows.
_PADDED_TO = 64


class ExportedTensors:
    """The whole tensors of one export on one rank; a ``TensorSource``.

    ModelOpt writes some things otherwise than its own other formats do, which is put right here: scalars without a
    dimension (NVFP4), rows added to the vocabulary (AWQ), and no lm_head where Gemma's is tied.
    """

    def __init__(self, file: SafetensorsFile, config: CheckpointConfig) -> None:
        """Raises SetupError that names what is missing, unknown or of another type than ``config`` calls for."""
        self._file = file
        self._types = {name: entry.whole for name, entry in tensor_table(config).items()}
        self._padded_rows = -(-config.vocab_size // _PADDED_TO) * _PADDED_TO
        if config.tie_word_embeddings and LM_HEAD not in file.tensors:
            del self._types[LM_HEAD]
        for name in file.tensors:
            if name not in self._types and not name.endswith(_SUPERSEDED):
                raise SetupError(f'ModelOpt exported an unknown tensor "{name}"{did_you_mean(name, self._types)}.')
        for name, expected in self._types.items():
            self._check(name, expected)

    def __call__(self, name: str) -> Array:
        """Raises SetupError when a value is not finite."""
        expected = self._types[name]
        tensor = self._file.tensor(name)
        if self._is_padded(name, self._file.tensors[name], expected):
            tensor = tensor[: expected.shape[0]]
        if expected.dtype.itemsize > 1 and not np.isfinite(tensor).all():
            raise SetupError(
                f'quantization gave values that are not finite in "{name}". Values too large for float16 do that: '
                "try quantization.dtype: bfloat16."
            )
        return tensor.reshape(expected.shape)

    def _check(self, name: str, expected: TensorType) -> None:
        found = self._file.tensors.get(name)
        if found is None and name.endswith(KV_CACHE_SCALE):
            raise SetupError(f'ModelOpt did not quantize the KV cache: its export has no "{name}".')
        if found is None:
            raise SetupError(f'ModelOpt\'s export has no "{name}".')
        scalar = expected.shape == (1,) and found == TensorType(expected.dtype, ())
        if found != expected and not scalar and not self._is_padded(name, found, expected):
            raise SetupError(f'ModelOpt exported "{name}" as {found}; the format calls for {expected}.')

    def _is_padded(self, name: str, found: TensorType, expected: TensorType) -> bool:
        padded = TensorType(expected.dtype, (self._padded_rows, *expected.shape[1:]))
        return name in (EMBEDDING, LM_HEAD) and found == padded

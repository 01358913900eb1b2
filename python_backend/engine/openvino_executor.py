"""Steps computed by OpenVINO on the CPU: an engine folder, compiled with paged attention over preallocated blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.manifest import CpuManifest, build_hint
from python_backend.engine.openvino_model import read_model
from python_backend.engine.single_rows import without_single_rows
from python_backend.errors import EngineFault, SetupError
from python_backend.scheduling.step_batch import StepBatch


def mode_properties(core: ov.Core, mode: ExecutionMode) -> dict[str, str]:
    """What to compile a model with, so that it computes in that mode on this machine."""
    if mode is ExecutionMode.EXACT:
        return {
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        }
    if core.get_property("CPU", "INFERENCE_PRECISION_HINT") == ov.Type.f32:
        # Attention in 32 bits reads 16-bit keys and values as they are. The plugin's default packs them to 8 bits: half
        # the memory, slower steps, and tokens that change with the batch far more often.
        return {"KV_CACHE_PRECISION": "f16"}
    return {}  # bfloat16 kernels (AMX, AVX-512): untried with a float16 cache, so the plugin's defaults stand


class OpenVinoExecutor:
    """An ``Executor`` over a model with paged attention, as `build_engines` compiles it.

    Raises SetupError when the model cannot be loaded or the KV cache does not fit into memory; ``kv_cache_setting`` is
    what operators call ``max_kv_cache_tokens``. Without ``with_logits`` steps are shorter, and there is no ``logits``.
    """

    def __init__(
        self,
        engine_dir: Path,
        *,
        max_kv_cache_tokens: int,
        mode: ExecutionMode,
        num_threads: int = 0,
        kv_cache_setting: str = "max_tokens_in_paged_kv_cache",
        with_logits: bool = True,
    ) -> None:
        core = ov.Core()
        properties = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", **mode_properties(core, mode)}
        if num_threads:
            properties["INFERENCE_NUM_THREADS"] = str(num_threads)
        try:
            outputs = ["token_ids", "logits"] if with_logits else ["token_ids"]
            model = read_model(core, engine_dir, outputs=outputs)
            self._compiled = core.compile_model(model, "CPU", properties)
        except RuntimeError as error:
            raise SetupError(
                f"OpenVINO cannot load {engine_dir}: {_first_line(error)}; {build_hint(engine_dir)}"
            ) from error
        self.vocab_size = CpuManifest.load(engine_dir).vocab_size
        self._request = self._compiled.create_infer_request()
        self._pads = mode is ExecutionMode.EXACT
        self._rows = 0  # sampled in the latest step
        self._inputs: dict[str, npt.NDArray[Any]] = {}  # views of what the request reads, the KV cache aside
        self._allocate(max_kv_cache_tokens, kv_cache_setting)

    def _allocate(self, max_kv_cache_tokens: int, setting: str) -> None:
        caches = {port.get_any_name(): port for port in self._compiled.inputs if "_cache." in port.get_any_name()}
        self.tokens_per_block = int(caches["value_cache.0"].partial_shape[2].get_length())
        self.num_blocks = max_kv_cache_tokens // self.tokens_per_block
        if self.num_blocks < 1:
            raise SetupError(
                f"{setting} is {max_kv_cache_tokens}; one block alone holds {self.tokens_per_block} tokens. Raise it."
            )
        self.kv_cache_bytes = 0
        try:
            for name, port in caches.items():
                shape = [self.num_blocks + self._pads, *(port.partial_shape[axis].get_length() for axis in (1, 2, 3))]
                tensor = ov.Tensor(port.element_type, ov.Shape(shape))
                self._request.set_tensor(name, tensor)
                self.kv_cache_bytes += tensor.byte_size
        except (MemoryError, RuntimeError) as error:
            raise SetupError(
                f"a KV cache of {max_kv_cache_tokens} tokens does not fit into memory. Lower {setting}."
            ) from error

    def execute(self, batch: StepBatch) -> npt.NDArray[np.int32]:
        """See ``Executor.execute``."""
        self._rows = batch.sample_rows.size
        if self._pads:
            batch = without_single_rows(batch, spare_block=self.num_blocks)
        inputs: dict[str, npt.NDArray[Any]] = {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "past_lens": batch.past_lens,
            "subsequence_begins": batch.subsequence_begins,
            "block_indices": batch.block_indices,
            "block_indices_begins": batch.block_indices_begins,
            "max_context_len": np.array(batch.max_context_len, np.int32),
            "sample_rows": batch.sample_rows,
        }
        try:
            for name, array in inputs.items():
                self._set(name, array)
            self._request.infer()
            return np.array(self._request.get_tensor("token_ids").data[: self._rows], np.int32)
        except RuntimeError as error:
            raise EngineFault(f"OpenVINO could not compute a step: {_first_line(error)}") from error

    def _set(self, name: str, array: npt.NDArray[Any]) -> None:
        view = self._inputs.get(name)
        if view is not None and view.shape == array.shape:
            view[...] = array  # Setting a tensor takes 6 µs, this 0.2; most steps are shaped like the last one.
        else:
            tensor = ov.Tensor(array)
            self._request.set_tensor(name, tensor)
            self._inputs[name] = tensor.data

    def logits(self) -> npt.NDArray[np.float32]:
        """See ``Executor.logits``."""
        view: npt.NDArray[np.float32] = self._request.get_tensor("logits").data[: self._rows]
        return view


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

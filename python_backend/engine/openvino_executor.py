"""Steps computed by OpenVINO on the CPU: an engine folder, compiled with paged attention over preallocated blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from python_backend.engine.execution_mode import ExecutionMode
from python_backend.engine.manifest import CpuManifest, build_hint
from python_backend.engine.openvino_graph import GraphChoice, OpenVinoGraph
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
    ``num_graphs`` copies of the weights keep as many step sizes ready (see ``graph_copies``).
    """

    def __init__(
        self,
        engine_dir: Path,
        *,
        max_kv_cache_tokens: int,
        mode: ExecutionMode,
        num_threads: int = 0,
        num_graphs: int = 1,
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
            compiled = [core.compile_model(model, "CPU", properties) for _ in range(num_graphs)]
        except RuntimeError as error:
            raise SetupError(
                f"OpenVINO cannot load {engine_dir}: {_first_line(error)}; {build_hint(engine_dir)}"
            ) from error
        self.vocab_size = CpuManifest.load(engine_dir).vocab_size
        self._pads = mode is ExecutionMode.EXACT
        kv_cache = self._allocate(compiled[0], max_kv_cache_tokens, kv_cache_setting)
        self.kv_cache_bytes = sum(tensor.byte_size for tensor in kv_cache.values())
        self.kept_shapes = num_graphs
        graphs = [OpenVinoGraph(each, kv_cache) for each in compiled]
        self._choice = GraphChoice(graphs)
        self._latest, self._rows = graphs[0], 0  # of the latest step

    def _allocate(self, compiled: ov.CompiledModel, max_kv_cache_tokens: int, setting: str) -> dict[str, ov.Tensor]:
        caches = {port.get_any_name(): port for port in compiled.inputs if "_cache." in port.get_any_name()}
        self.tokens_per_block = int(caches["value_cache.0"].partial_shape[2].get_length())
        self.num_blocks = max_kv_cache_tokens // self.tokens_per_block
        if self.num_blocks < 1:
            raise SetupError(
                f"{setting} is {max_kv_cache_tokens}; one block alone holds {self.tokens_per_block} tokens. Raise it."
            )
        kv_cache = {}
        try:
            for name, port in caches.items():
                shape = [self.num_blocks + self._pads, *(port.partial_shape[axis].get_length() for axis in (1, 2, 3))]
                kv_cache[name] = ov.Tensor(port.element_type, ov.Shape(shape))
        except (MemoryError, RuntimeError) as error:
            raise SetupError(
                f"a KV cache of {max_kv_cache_tokens} tokens does not fit into memory. Lower {setting}."
            ) from error
        return kv_cache

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
            self._latest = self._choice.of(batch.input_ids.size)
            self._latest.compute(inputs)
            return np.array(self._latest.output("token_ids", self._rows), np.int32)
        except RuntimeError as error:
            raise EngineFault(f"OpenVINO could not compute a step: {_first_line(error)}") from error

    def logits(self) -> npt.NDArray[np.float32]:
        """See ``Executor.logits``."""
        return self._latest.output("logits", self._rows)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

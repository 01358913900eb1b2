"""Quantizing a model: from what was imported to the whole tensors of its checkpoint, which the writer then shards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from build_engines.checkpoint.config import CheckpointConfig, ParallelMapping
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.reader import rank_file
from build_engines.checkpoint.safetensors_file import SafetensorsFile
from build_engines.checkpoint.writer import TensorSource
from build_engines.progress import Report, silent
from build_engines.quantization.calibration import Notice, calibration_samples
from build_engines.quantization.captured_output import captured_output
from build_engines.quantization.exported_tensors import KV_CACHE_SCALE, ExportedTensors
from build_engines.quantization.grouped_int4 import GroupedInt4
from build_engines.quantization.settings import QuantizationSettings
from build_engines.quantization.token_pieces import TokenIds
from build_engines.sources.model_source import ModelSource
from python_backend.errors import SetupError

#: Later versions of either have changed what is exported without an error.
_VERSIONS = {"nvidia-modelopt": "0.47", "torch": "2", "transformers": "4.57"}
#: Algorithms whose checkpoints hold plain weights.
_PLAIN = (None, "W8A16", "W4A16")
#: What ModelOpt and torch raise: models they do not know, memory that does not suffice, a disk that is full.
_FAILURES = (AssertionError, LookupError, MemoryError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)


def quantized_config(
    source: CheckpointConfig, settings: QuantizationSettings, *, tp_size: int = 1, pp_size: int = 1
) -> CheckpointConfig:
    """What the checkpoint will be. Raises SetupError, before any work, for all that cannot be had of this model."""
    if source.quantization.quant_algo not in _PLAIN or source.quantization.kv_cache_quant_algo:
        raise SetupError(
            f"the model is quantized already ({source.quantization.quant_algo}). Start from its 16-bit weights."
        )
    dtype = settings.dtype or source.dtype
    if dtype == "float32":
        raise SetupError(
            "the model's weights are float32, and engines compute in 16 bits. "
            "Choose quantization.dtype: bfloat16 (its range is float32's) or float16 (finer)."
        )
    most_tokens = source.max_position_embeddings
    if settings.calibrated and settings.calibration.max_tokens > most_tokens:
        raise SetupError(
            f"quantization.calibration.max_tokens is {settings.calibration.max_tokens}; the model has {most_tokens} "
            f"positions. Set it to {most_tokens} or less."
        )
    return source.changed(
        dtype=dtype,
        quantization=settings.quantization().model_dump(),
        mapping=ParallelMapping.of(tp_size, pp_size).model_dump(),
        use_parallel_embedding=tp_size > 1,
    )


@contextmanager
def quantized_tensors(
    source: ModelSource,
    config: CheckpointConfig,
    settings: QuantizationSettings,
    *,
    workplace: Path,
    report: Report = silent,
    notice: Notice = lambda message: print(f"note: {message}", file=sys.stderr),
) -> Iterator[TensorSource]:
    """While the block runs, the whole tensors that ``config``, made by ``quantized_config``, calls for.

    Calibrated formats are quantized by ModelOpt before the block begins; the result, as large as the checkpoint, is
    kept in ``workplace`` until the block ends. Raises SetupError when ModelOpt is not installed or fails, when it
    exports anything but what ``config`` calls for, and when the calibration text cannot be read.
    """
    own: TensorSource = source.tensor
    if settings.format == "int4_wo" and config.quantization.group_size:
        own = GroupedInt4(config, source.tensor)
    if not settings.calibrated:
        yield own
        return
    _check_installed(settings)
    samples = calibration_samples(settings, source.config, _tokenizer(source), notice)
    with TemporaryDirectory(prefix="modelopt-", dir=workplace) as directory:
        _export(source, config, settings, samples, Path(directory), report)
        file = SafetensorsFile(Path(directory) / rank_file(0))
        if settings.needs_modelopt:
            yield ExportedTensors(file, config)
            return
        plain = config.quantization.model_copy(update={"quant_algo": None, "group_size": None})
        scales = ExportedTensors(file, config.changed(quantization=plain.model_dump()))

        def with_scales(name: str) -> Array:
            return scales(name) if name.endswith(KV_CACHE_SCALE) else own(name)

        yield with_scales


def _export(
    source: ModelSource,
    config: CheckpointConfig,
    settings: QuantizationSettings,
    samples: TokenIds,
    directory: Path,
    report: Report,
) -> None:
    with captured_output() as output:
        # Only now: imports of torch and ModelOpt take seconds, and print.
        from build_engines.quantization.modelopt_export import export_quantized

        try:
            export_quantized(source, settings, config.dtype, samples, directory, report)
        except _FAILURES as error:
            reason = f"{type(error).__name__}: {str(error)[:500]}"
            raise SetupError(f"ModelOpt could not make {settings.format}. {reason}\n{output.last_lines()}") from error


def _check_installed(settings: QuantizationSettings) -> None:
    what = f"format {settings.format}" if settings.needs_modelopt else f"kv_cache {settings.kv_cache}"
    for package, needed in _VERSIONS.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            found = None
        if found is None or not f"{found}.".startswith(f"{needed}."):
            raise SetupError(
                f"{what} needs {package} {needed}, which is {f'{found} here' if found else 'not installed'}. "
                "Install it with `make quantize`."
            )


def _tokenizer(source: ModelSource) -> bytes:
    try:
        return source.files["tokenizer.json"]
    except KeyError:
        raise SetupError(
            "calibration needs tokenizer.json, which the model lacks. Put it beside the weights."
        ) from None

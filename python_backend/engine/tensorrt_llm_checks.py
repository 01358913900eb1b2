"""Whether a TensorRT-LLM engine is whole, runs here, and does what a model's config.pbtxt asks of it.

The server asks before it starts, ``python -m build_engines check`` at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from python_backend.engine.gpus import Gpu
from python_backend.engine.manifest import MANIFEST_FILE, TensorRtLlmManifest, build_hint
from python_backend.engine.tensorrt_llm_engine import TensorRtLlmEngine
from python_backend.errors import SetupError
from python_backend.finding import Finding

ENGINE_PARAMETER = "gpt_model_path"
_YES = ("true", "True", "TRUE", "1")


def check_engine_files(directory: Path) -> tuple[list[Finding], TensorRtLlmEngine | None, TensorRtLlmManifest | None]:
    """Every file is there, and whole as far as a manifest tells. No engine when it cannot be read."""
    try:
        engine = TensorRtLlmEngine.read(directory)
        manifest = TensorRtLlmManifest.load(directory) if (directory / MANIFEST_FILE).is_file() else None
    except SetupError as error:
        hint = build_hint(directory)
        return [Finding("engine", str(error).removesuffix(f"; {hint}"), _sentence(hint))], None, None
    ranks = "1 rank" if engine.world_size == 1 else f"{engine.world_size} ranks"
    seen = f"{directory}, TensorRT-LLM {engine.version}, {ranks}"
    return [Finding("engine", seen if manifest else f"{seen}, without {MANIFEST_FILE}")], engine, manifest


def check_engine_runs_here(
    engine: TensorRtLlmEngine,
    manifest: TensorRtLlmManifest | None,
    runtime_version: str | None,
    gpus: Sequence[Gpu] | None,
) -> Iterator[Finding]:
    """Version and GPUs fit. None: there is no TensorRT-LLM here, or nobody has looked for GPUs.

    An engine runs with the version that built it only, and on GPUs of one architecture, which its manifest names.
    """
    hint = build_hint(engine.directory)
    if runtime_version is not None:
        seen = f"{engine.directory} was built with TensorRT-LLM {engine.version}, this is {runtime_version}"
        remedy = f"Serve it in the image of that version, or {hint}"
        yield Finding("engine version", seen, None if engine.version == runtime_version else remedy)
    if manifest and "--strip_plan" in manifest.arguments:
        yield Finding(
            "engine weights", f"{engine.directory} was built without", "Build it without strip_plan to serve it."
        )
    if gpus is None:
        return
    needed = f"{engine.directory} needs {engine.world_size}"
    if len(gpus) < engine.world_size:
        remedy = "Serve it on a machine with more, or shard the checkpoint for fewer: parallel in its recipe."
        yield Finding("GPUs", f"{len(gpus)} here; {needed}", remedy)
    elif manifest and (other := next((g for g in gpus if g.compute_capability != manifest.compute_capability), None)):
        yield Finding(
            "GPUs",
            f"{engine.directory} was built on {manifest.gpu_name}, compute capability {manifest.compute_capability}; "
            f"GPU {other.index} is {other.name}, {other.compute_capability}",
            f"Serve it on that kind of GPU, or {hint}",
        )
    else:
        yield Finding("GPUs", f"{len(gpus)} x {gpus[0].name}; {needed}")


def check_model_config(
    engine: TensorRtLlmEngine, config_path: Path, max_batch_size: int, parameters: Mapping[str, str]
) -> Iterator[Finding]:
    """What config.pbtxt asks for, the engine was built for."""
    for key, asked in (("max_batch_size", max_batch_size), ("max_beam_width", _int(parameters.get("max_beam_width")))):
        limit = engine.build_config.get(key)
        if isinstance(limit, int) and asked is not None and asked > limit:
            remedy = f"Lower it there, or build the engine with {key} {asked}."
            yield Finding("model", f"{config_path} says {key} {asked}; the engine was built for {limit}", remedy)
    for key in ("enable_kv_cache_reuse", "enable_chunked_context"):
        if parameters.get(key) in _YES and not engine.has_paged_context:
            remedy = 'Set it to "false", or build the engine with use_paged_context_fmha.'
            yield Finding("model", f"{config_path} sets {key}; the engine lacks use_paged_context_fmha", remedy)
    for instance in parameters.get("gpu_device_ids", "").split(";"):
        ids = [part.strip() for part in instance.split(",") if part.strip()]
        if ids and len(ids) != engine.world_size:
            wanted = ",".join(map(str, range(engine.world_size)))
            seen = f"{config_path} gives gpu_device_ids {instance.strip()!r}; the engine has {engine.world_size} ranks"
            yield Finding("model", seen, f'Name one GPU a rank, such as "{wanted}".')


def _int(value: str | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None


def _sentence(hint: str) -> str:
    return hint[0].upper() + hint[1:]

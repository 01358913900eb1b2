"""``check``: whether an engine directory is whole, and can be served here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path

from build_engines.checkpoint.reader import TOKENIZER_FILES
from build_engines.content_hash import sha256_of
from python_backend.engine.gpus import Gpu, present_gpus
from python_backend.engine.manifest import (
    MANIFEST_FILE,
    CpuManifest,
    TensorRtLlmManifest,
    build_hint,
    load_manifest,
)
from python_backend.engine.model_config import read_model_config, string_parameters
from python_backend.engine.tensorrt_llm_checks import (
    ENGINE_PARAMETER,
    check_engine_files,
    check_engine_runs_here,
    check_model_config,
)
from python_backend.engine.tensorrt_llm_engine import CONFIG_FILE
from python_backend.errors import SetupError
from python_backend.finding import Finding


def check_engine(engine_dir: Path, *, content: bool = False, model_repository: Path | None = None) -> list[Finding]:
    """Everything that can be known of an engine without loading it, good and bad.

    ``content`` reads all of its files and compares their SHA-256. ``model_repository``: what its
    ``tensorrt_llm/config.pbtxt`` asks of a TensorRT-LLM engine is compared with what that was built for.
    """
    findings: list[Finding] = []
    if (engine_dir / CONFIG_FILE).is_file() and not (engine_dir / MANIFEST_FILE).is_file():
        findings += _tensorrt_llm(engine_dir, model_repository)
    else:
        try:
            manifest = load_manifest(engine_dir)
        except SetupError as error:
            hint = build_hint(engine_dir)
            return [Finding("engine", str(error).removesuffix(f"; {hint}"), hint[0].upper() + hint[1:])]
        if isinstance(manifest, CpuManifest):
            findings += _cpu(engine_dir, manifest)
        else:
            findings += _tensorrt_llm(engine_dir, model_repository)
            if content:
                findings.append(_content(engine_dir, manifest))
    findings += [_tokenizer_file(engine_dir, name) for name in TOKENIZER_FILES]
    return findings


def _cpu(engine_dir: Path, manifest: CpuManifest) -> Iterator[Finding]:
    yield Finding("engine", f"{engine_dir}, CPU, {manifest.architecture}, {manifest.quant_algo or manifest.dtype}")
    import openvino  # Only here: a GPU machine checks its engines without it.

    seen = f"compiled with OpenVINO {manifest.openvino_version}, this is {openvino.__version__}"
    fits = manifest.openvino_version == openvino.__version__
    hint = build_hint(engine_dir)
    yield Finding("engine version", seen, None if fits else hint[0].upper() + hint[1:])


def _tensorrt_llm(engine_dir: Path, model_repository: Path | None) -> Iterator[Finding]:
    findings, engine, manifest = check_engine_files(engine_dir)
    yield from findings
    if engine is None:
        return
    gpus: Sequence[Gpu] | None = None
    try:
        gpus = present_gpus()
    except SetupError:
        yield Finding("GPUs", f"no NVIDIA GPU here to compare with; it needs {engine.world_size}")
    yield from check_engine_runs_here(engine, manifest, _installed("tensorrt_llm"), gpus)
    if model_repository is None:
        return
    path = model_repository / "tensorrt_llm/config.pbtxt"
    try:
        config = read_model_config(path)
    except SetupError as error:
        yield Finding("model", str(error), "Name a model repository that has it.")
        return
    parameters = string_parameters(config)
    problems = list(check_model_config(engine, path, config.max_batch_size, parameters))
    yield from problems or [Finding("model", f"{path} asks for nothing that the engine was not built for")]
    served = parameters.get(ENGINE_PARAMETER)
    if served is None or Path(served).name != engine_dir.absolute().resolve().name:
        seen = f"{path} serves {served or 'no engine'}: link this one there, or change {ENGINE_PARAMETER}, to serve it"
        yield Finding("model", seen)


def _content(engine_dir: Path, manifest: TensorRtLlmManifest) -> Finding:
    found = sha256_of(*(engine_dir / name for name in sorted(manifest.files, key=Path)))
    if found == manifest.content_sha256:
        return Finding("content", f"SHA-256 {found}")
    hint = build_hint(engine_dir)
    seen = f"SHA-256 {found} is not {manifest.content_sha256}, as {MANIFEST_FILE} says: a file was changed"
    return Finding("content", seen, hint[0].upper() + hint[1:])


def _tokenizer_file(engine_dir: Path, name: str) -> Finding:
    path = engine_dir / name
    if path.is_file():
        return Finding("tokenizer", str(path))
    return Finding("tokenizer", f"{path} does not exist", "Copy it from the checkpoint.")


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None

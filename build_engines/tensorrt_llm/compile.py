"""From a TensorRT-LLM checkpoint to an engine for GPUs: ``trtllm-build``, and what describes the result.

This has not run on a GPU so far.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.reader import Checkpoint
from build_engines.content_hash import sha256_of
from build_engines.progress import Report, silent
from build_engines.publish import publishing
from build_engines.sources.special_tokens import SpecialTokens
from build_engines.tensorrt_llm.architectures import check_named_gpu
from build_engines.tensorrt_llm.command import (
    build_command,
    docker_command,
    engine_arguments,
    launch_command,
    mounted_folders,
)
from build_engines.tensorrt_llm.settings import TensorRtLlmSettings
from build_engines.tensorrt_llm.toolchain import Toolchain, check_gpus, find_toolchain
from build_engines.tensorrt_llm.trtllm_build import run_trtllm_build
from build_engines.tensorrt_llm.xgrammar_tokenizer_info import write_tokenizer_info
from python_backend.engine.manifest import MANIFEST_FILE, LoraLimits, TensorRtLlmManifest
from python_backend.engine.tensorrt_llm_engine import TensorRtLlmEngine, rank_file
from python_backend.errors import SetupError
from python_backend.pins import TENSORRT_LLM, TRITON_IMAGE


def compile_tensorrt_llm_engine(
    checkpoint_dir: Path,
    engine_dir: Path,
    settings: TensorRtLlmSettings,
    *,
    max_seq_len: int | None = None,
    source_sha256: str | None = None,
    accuracy: Mapping[str, float] | None = None,
    made_by: str | None = None,
    report: Report = silent,
    toolchain: Callable[[], Toolchain] = find_toolchain,
) -> bool:
    """Compile ``checkpoint_dir`` into ``engine_dir``, all or nothing. False when that has been done already.

    ``max_seq_len``: most tokens of prompt and output together, by default all positions of the model.
    ``source_sha256``, ``accuracy`` and ``made_by``, the command that makes the engine again, go into the manifest.
    The log is written beside the engine, as ``<engine_dir>.log``.
    Raises SetupError when the checkpoint cannot be read, settings contradict each other or it, the machine cannot do
    it (with the command to run where it can), or the build fails.
    """
    checkpoint = Checkpoint.open(checkpoint_dir)
    command = build_command(settings, checkpoint.config, checkpoint_dir, engine_dir, max_seq_len)
    check_named_gpu(settings.gpu, checkpoint.config)
    by_hand = shlex.join(in_container(command))
    wanted = _manifest(checkpoint, settings, command, max_seq_len).model_copy(
        update={
            "source_sha256": source_sha256,
            "accuracy": dict(accuracy) if accuracy is not None else None,
            "build_command": made_by or by_hand,
        }
    )
    built = _built(engine_dir, wanted)
    try:
        tools = toolchain()
    except SetupError as error:
        if built:  # Nothing is to be done, so nothing is missing.
            return False
        raise SetupError(f"{error} On a machine with the GPU, run:\n  {made_by or by_hand}") from error
    if built and built.compute_capability == tools.gpu.compute_capability:
        return False
    workers = settings.workers or checkpoint.config.mapping.world_size
    check_gpus(tools, checkpoint.config, settings.gpu, workers)
    with publishing(engine_dir, known_by=MANIFEST_FILE) as draft:
        _check_space(checkpoint, engine_dir)
        _compile(command, draft, engine_dir, checkpoint, tools, report)
        for name in checkpoint.tokenizer_files:
            shutil.copyfile(checkpoint_dir / name, draft / name)
        if checkpoint.tokenizer_files:  # for guided decoding; see guided_decoding_backend in tensorrt_llm/config.pbtxt
            write_tokenizer_info(draft, [SpecialTokens.read(draft).end_id], draft)
        complete = wanted.model_copy(update=_result(draft, tools))
        (draft / MANIFEST_FILE).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return True


def dry_run(
    config: CheckpointConfig,
    settings: TensorRtLlmSettings,
    checkpoint_dir: Path,
    engine_dir: Path,
    max_seq_len: int | None = None,
) -> list[str]:
    """The shell commands that would compile the engine in NVIDIA's image, and serve it. No machine is looked at.

    Raises SetupError as ``compile_tensorrt_llm_engine`` does for what can be known without files or a GPU.
    """
    command = build_command(settings, config, checkpoint_dir, engine_dir, max_seq_len)
    check_named_gpu(settings.gpu, config)
    return [shlex.join(in_container(command)), *launch_command(engine_dir, config.mapping.world_size)]


def in_container(command: list[str]) -> list[str]:
    """A ``trtllm-build`` command in NVIDIA's image, with the folders that it needs."""
    read, write = mounted_folders(command)
    return docker_command(command, read=read, write=write)


def _manifest(
    checkpoint: Checkpoint, settings: TensorRtLlmSettings, command: list[str], max_seq_len: int | None
) -> TensorRtLlmManifest:
    """All that is known before the build."""
    config, lora = checkpoint.config, settings.lora
    return TensorRtLlmManifest(
        architecture=config.architecture,
        dtype=config.dtype,
        quant_algo=config.quantization.quant_algo,
        kv_cache_quant_algo=config.quantization.kv_cache_quant_algo,
        tp_size=config.mapping.tp_size,
        pp_size=config.mapping.pp_size,
        vocab_size=config.vocab_size,
        max_seq_len=config.max_position_embeddings if max_seq_len is None else max_seq_len,
        checkpoint_sha256=checkpoint.sha256(),
        created=datetime.now(UTC),
        files={},
        tensorrt_llm_version=TENSORRT_LLM,
        image=TRITON_IMAGE,
        gpu_name="",
        compute_capability="",
        max_batch_size=settings.max_batch_size,
        max_num_tokens=settings.max_num_tokens,
        max_beam_width=settings.max_beam_width,
        max_draft_len=settings.draft.max_draft_len if settings.draft else 0,
        lora=LoraLimits(target_modules=lora.target_modules, max_rank=lora.max_rank) if lora else None,
        arguments=engine_arguments(command),
        content_sha256="",
    )


def _built(engine_dir: Path, wanted: TensorRtLlmManifest) -> TensorRtLlmManifest | None:
    """The engine's manifest, if it was made of the same and as it would be made now, wherever."""
    try:
        built = TensorRtLlmManifest.load(engine_dir)
    except SetupError:  # Missing, broken or of another format: all are mended by building it.
        return None
    incidental = ("accuracy", "build_command", "created", "files", "image", "gpu_name", "compute_capability")
    same = {name: getattr(built, name) for name in (*incidental, "content_sha256")}
    return built if wanted.model_copy(update=same) == built else None


def _compile(
    command: list[str], draft: Path, engine_dir: Path, checkpoint: Checkpoint, tools: Toolchain, report: Report
) -> None:
    ranks = checkpoint.config.mapping.world_size
    log_file = engine_dir.with_name(f"{engine_dir.name}.log")
    Path(command[command.index("--output_timing_cache") + 1]).parent.mkdir(parents=True, exist_ok=True)
    drafted = list(command)
    drafted[drafted.index("--output_dir") + 1] = str(draft.absolute())
    if tools.image is not None:
        read, write = mounted_folders(command)
        drafted = docker_command(drafted, read=read, write=write, image=tools.image)
    run_trtllm_build(drafted, draft, ranks, log_file, report)
    try:
        engine = TensorRtLlmEngine.read(draft)
    except SetupError as error:
        raise SetupError(f"trtllm-build ended without an error, but {error}. Its log: {log_file}") from error
    if engine.world_size != ranks:
        raise SetupError(f"trtllm-build made {engine.world_size} ranks of a checkpoint of {ranks}. Its log: {log_file}")
    if engine.version != TENSORRT_LLM:
        raise SetupError(
            f"trtllm-build is that of TensorRT-LLM {engine.version}; engines are for {TENSORRT_LLM}. "
            f"Build inside {TRITON_IMAGE}."
        )
    for rank in range(ranks):
        if not (draft / rank_file(rank)).stat().st_size:
            raise SetupError(f"trtllm-build left {rank_file(rank)} empty. Its log: {log_file}")


def _result(draft: Path, tools: Toolchain) -> dict[str, object]:
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    return {
        "image": tools.image,
        "gpu_name": tools.gpu.name,
        "compute_capability": tools.gpu.compute_capability,
        "files": {str(path.relative_to(draft)): path.stat().st_size for path in files},
        "content_sha256": sha256_of(*files),
        "created": datetime.now(UTC),
    }


def _check_space(checkpoint: Checkpoint, engine_dir: Path) -> None:
    """An engine holds the weights, so it is about as large as its checkpoint."""
    needed = sum(rank.path.stat().st_size for rank in checkpoint.ranks)
    free = shutil.disk_usage(engine_dir.parent).free
    if needed > free:
        raise SetupError(
            f"the engine needs about {needed / 1e9:.1f} GB and {engine_dir.parent} has {free / 1e9:.1f} GB free. "
            "Make room, or name an engine_dir on another disk."
        )

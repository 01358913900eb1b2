"""The command lines of a TensorRT-LLM engine: to compile it, in NVIDIA's image or out of it, and to serve it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.tensorrt_llm.flag_rules import check_command, fp8_attention
from build_engines.tensorrt_llm.flags import PROGRAM
from build_engines.tensorrt_llm.settings import TensorRtLlmSettings
from python_backend.errors import SetupError
from python_backend.pins import TRITON_IMAGE

#: Where docker-compose.yml and model_repository/tensorrt_llm/config.pbtxt look for the engine.
SERVED_ENGINE = Path("engines/tensorrt_llm")
#: Flags that name places, or concern the building and not the engine.
_NOT_THE_ENGINE = (
    "--checkpoint_dir", "--output_dir", "--input_timing_cache", "--output_timing_cache", "--workers", "--log_level",
)  # fmt: skip


def build_command(
    settings: TensorRtLlmSettings,
    config: CheckpointConfig,
    checkpoint_dir: Path,
    engine_dir: Path,
    max_seq_len: int | None = None,
) -> list[str]:
    """``trtllm-build`` with every flag that shapes the engine, so that none depends on a default.

    Raises SetupError when flags contradict each other or the checkpoint (see ``flag_rules``).
    """
    longest = config.max_position_embeddings if max_seq_len is None else max_seq_len
    cache = str((settings.timing_cache or engine_dir.parent / "timing.cache").expanduser().absolute())
    flags = {
        "checkpoint_dir": str(checkpoint_dir.absolute()),
        "output_dir": str(engine_dir.absolute()),
        "max_batch_size": settings.max_batch_size,
        "max_input_len": settings.max_input_len or longest,
        "max_seq_len": longest,
        "max_num_tokens": settings.max_num_tokens,
        "max_beam_width": settings.max_beam_width,
        "kv_cache_type": settings.kv_cache_type,
        "tokens_per_block": settings.tokens_per_block,
        "remove_input_padding": "enable",
        "context_fmha": "enable",
        "gpt_attention_plugin": "auto",
        **_plugins(settings, config),
        "use_paged_context_fmha": _on(settings.use_paged_context_fmha),
        "use_fp8_context_fmha": _on(_fp8_context(settings, config)),
        "reduce_fusion": _on(settings.reduce_fusion),
        "multiple_profiles": _on(settings.multiple_profiles),
    }
    if settings.logits_dtype:
        flags["logits_dtype"] = settings.logits_dtype
    if settings.draft:
        flags["speculative_decoding_mode"] = "draft_tokens_external"
        flags["max_draft_len"] = settings.draft.max_draft_len
    flags["workers"] = settings.workers or config.mapping.world_size
    flags["input_timing_cache"] = flags["output_timing_cache"] = cache
    command = [PROGRAM]
    for name, value in flags.items():
        command += [f"--{name}", str(value)]
    if settings.lora:
        command += ["--lora_plugin", "auto", "--lora_target_modules", *settings.lora.target_modules]
        command += ["--max_lora_rank", str(settings.lora.max_rank)]
    for switch in ("gather_context_logits", "gather_generation_logits", "weight_streaming", "strip_plan", "fast_build"):
        if getattr(settings, switch):
            command.append(f"--{switch}")
    check_command(command, config)
    return command


def engine_arguments(command: Sequence[str]) -> tuple[str, ...]:
    """The arguments of ``trtllm-build`` that shape the engine, wherever it and its checkpoint lie."""
    kept: list[str] = []
    rest = list(command[1:])
    while rest:
        word = rest.pop(0)
        if word in _NOT_THE_ENGINE:
            rest.pop(0)
        else:
            kept.append(word)
    return tuple(kept)


def docker_command(
    command: Sequence[str],
    *,
    read: Sequence[Path],
    write: Sequence[Path],
    image: str = TRITON_IMAGE,
    gpus: str = "all",
    user: str | None = None,
) -> list[str]:
    """``command`` in a container with the GPUs, without network, and with only these folders, at their own paths.

    ``gpus``: Docker's --gpus. ``user``: whose files the results will be, "uid:gid"; the caller's by default. Folders
    must exist.
    """
    mounts = {**{_there(folder): ":ro" for folder in read}, **{_there(folder): "" for folder in write}}
    docker = ["docker", "run", "--rm", "--init", "--gpus", gpus, "--network", "none"]
    docker += ["--shm-size", "2g", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864"]
    # Kernels compiled on the way are kept in the home directory, and the user has none in the image.
    docker += ["--user", user or f"{os.getuid()}:{os.getgid()}", "--env", "HOME=/tmp"]
    for folder, mode in mounts.items():
        docker += ["--volume", f"{folder}:{folder}{mode}"]
    return [*docker, image, *command]


def mounted_folders(command: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """What a ``trtllm-build`` command reads, and where it writes: the folders that a container needs."""
    places = {name: Path(value) for name, value in pairwise(command) if name in _NOT_THE_ENGINE}
    outputs = [places["--output_dir"].parent, places["--output_timing_cache"].parent]
    return [places["--checkpoint_dir"]], list(dict.fromkeys(outputs))


def launch_command(engine_dir: Path, world_size: int) -> list[str]:
    """The shell commands that serve an engine: Compose serves engines/tensorrt_llm, on as many GPUs as ranks.

    The launcher in the container sees from the engine how many ranks to start. An engine in another folder under
    engines/ is linked there; from elsewhere it is copied.
    """
    commands = []
    if engine_dir.absolute() != SERVED_ENGINE.absolute():
        beside = engine_dir.absolute().parent == SERVED_ENGINE.parent.absolute()
        how = ["ln", "-sfn", engine_dir.name] if beside else ["cp", "-rT", str(engine_dir)]
        commands.append(shlex.join([*how, str(SERVED_ENGINE)]))
    if world_size > 1:
        ids = ",".join(map(str, range(world_size)))
        commands.append(f'# in model_repository/tensorrt_llm/config.pbtxt: gpu_device_ids "{ids}"')
    return [*commands, "docker compose up gpu"]


def _plugins(settings: TensorRtLlmSettings, config: CheckpointConfig) -> dict[str, str]:
    chosen = settings.plugins.model_dump()
    if chosen["gemm_plugin"] is None:
        by_format = {"FP8": "disable", "NVFP4": "nvfp4"}
        chosen["gemm_plugin"] = by_format.get(config.quantization.quant_algo or "", "auto")
    return chosen


def _fp8_context(settings: TensorRtLlmSettings, config: CheckpointConfig) -> bool:
    return fp8_attention(config) if settings.use_fp8_context_fmha is None else settings.use_fp8_context_fmha


def _on(enabled: bool) -> str:
    return "enable" if enabled else "disable"


def _there(folder: Path) -> str:
    path = str(folder.absolute())
    if ":" in path:
        raise SetupError(f"{path} cannot be given to a container: Docker takes the colon as a separator. Rename it.")
    return path

"""The exact command lines, and what they are refused for."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from build_engines.checkpoint.config import CheckpointConfig, Quantization
from build_engines.tensorrt_llm.command import (
    SERVED_ENGINE,
    build_command,
    docker_command,
    engine_arguments,
    launch_command,
)
from build_engines.tensorrt_llm.compile import dry_run
from build_engines.tensorrt_llm.flag_rules import check_command
from build_engines.tensorrt_llm.flags import FLAGS, read_flags
from build_engines.tensorrt_llm.settings import TensorRtLlmSettings
from python_backend.errors import SetupError
from python_backend.launcher.model_repository import ModelRepository
from python_backend.pins import TRITON_IMAGE
from tests import tiny_models

ROOT = Path(__file__).parents[4]
FP8 = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
AWQ = {"quant_algo": "W4A16_AWQ", "group_size": 64, "pre_quant_scale": True}


def config(quantization: dict[str, Any] | None = None, *, tp: int = 1, pp: int = 1, **changes: Any) -> CheckpointConfig:
    quantized = Quantization.model_validate(quantization or {}).model_dump()
    made = tiny_models.config("LlamaForCausalLM", dtype="bfloat16", intermediate_size=256, hidden_size=256, **changes)
    return made.changed(quantization=quantized, head_size=64).sharded(tp, pp)


def command(settings: dict[str, Any], of: CheckpointConfig, max_seq_len: int | None = None) -> str:
    made = build_command(
        TensorRtLlmSettings.model_validate(settings), of, Path("/c/model"), Path("/e/model"), max_seq_len
    )
    return shlex.join(made)


USUAL = (
    "--remove_input_padding enable --context_fmha enable --gpt_attention_plugin auto --gemm_plugin {gemm} "
    "--gemm_swiglu_plugin disable --low_latency_gemm_plugin disable --low_latency_gemm_swiglu_plugin disable "
    "--gemm_allreduce_plugin disable --use_paged_context_fmha enable --use_fp8_context_fmha {fp8}"
)
CACHE = "--input_timing_cache /e/timing.cache --output_timing_cache /e/timing.cache"


def test_bfloat16_on_one_gpu() -> None:
    assert command({}, config()) == (
        "trtllm-build --checkpoint_dir /c/model --output_dir /e/model --max_batch_size 64 --max_input_len 1024 "
        "--max_seq_len 1024 --max_num_tokens 8192 --max_beam_width 1 --kv_cache_type paged --tokens_per_block 32 "
        f"{USUAL.format(gemm='auto', fp8='disable')} --reduce_fusion disable --multiple_profiles disable "
        f"--workers 1 {CACHE}"
    )


def test_fp8_with_an_fp8_kv_cache_over_four_gpus() -> None:
    settings = {"max_batch_size": 256, "reduce_fusion": True, "multiple_profiles": True, "workers": 2}
    assert command(settings, config(FP8, tp=2, pp=2), 512) == (
        "trtllm-build --checkpoint_dir /c/model --output_dir /e/model --max_batch_size 256 --max_input_len 512 "
        "--max_seq_len 512 --max_num_tokens 8192 --max_beam_width 1 --kv_cache_type paged --tokens_per_block 32 "
        f"{USUAL.format(gemm='disable', fp8='enable')} --reduce_fusion enable --multiple_profiles enable "
        f"--workers 2 {CACHE}"
    )


def test_a_target_with_drafts_and_adapters() -> None:
    settings = {
        "max_input_len": 100,
        "draft": {"max_draft_len": 8},
        "lora": {"target_modules": ["attn_q", "attn_v"], "max_rank": 16},
        "gather_generation_logits": True,
        "logits_dtype": "float32",
        "timing_cache": "/t/cache",
    }
    assert command(settings, config(AWQ)) == (
        "trtllm-build --checkpoint_dir /c/model --output_dir /e/model --max_batch_size 64 --max_input_len 100 "
        "--max_seq_len 1024 --max_num_tokens 8192 --max_beam_width 1 --kv_cache_type paged --tokens_per_block 32 "
        f"{USUAL.format(gemm='auto', fp8='disable')} --reduce_fusion disable --multiple_profiles disable "
        "--logits_dtype float32 --speculative_decoding_mode draft_tokens_external --max_draft_len 8 --workers 1 "
        "--input_timing_cache /t/cache --output_timing_cache /t/cache "
        "--lora_plugin auto --lora_target_modules attn_q attn_v --max_lora_rank 16 --gather_generation_logits"
    )


EVERYTHING: list[dict[str, Any]] = [
    {},
    {"weight_streaming": True, "strip_plan": True, "fast_build": True, "gather_context_logits": True},
    {"plugins": {"gemm_plugin": "bfloat16", "gemm_allreduce_plugin": "bfloat16"}, "tokens_per_block": 64},
    {"use_paged_context_fmha": False, "max_num_tokens": 1024, "max_beam_width": 4},
]


@pytest.mark.parametrize("settings", EVERYTHING)
def test_every_flag_emitted_is_in_the_table(settings: dict[str, Any]) -> None:
    of = config(tp=2)
    words = shlex.split(command(settings, of))
    assert {word.removeprefix("--") for word in words if word.startswith("--")} <= FLAGS.keys()
    check_command(words, of)
    assert read_flags(words)


@pytest.mark.parametrize(
    ("algo", "gemm"),
    [
        (None, "auto"),
        ("W8A16", "auto"),
        ("W4A16", "auto"),
        ("W8A8_SQ_PER_CHANNEL", "auto"),
        ("FP8", "disable"),
        ("NVFP4", "nvfp4"),
    ],
)
def test_the_plugin_for_products_goes_by_the_format(algo: str | None, gemm: str) -> None:
    group = {"group_size": 16} if algo == "NVFP4" else {}
    assert f"--gemm_plugin {gemm} " in command({}, config({"quant_algo": algo, **group}))


def test_what_does_not_shape_the_engine_is_left_out_of_its_identity() -> None:
    of = config(tp=2)
    one = build_command(TensorRtLlmSettings(workers=1), of, Path("/c"), Path("/e/x"))
    other = build_command(TensorRtLlmSettings(workers=2, timing_cache=Path("/t")), of, Path("/d"), Path("/f/x"))
    assert engine_arguments(one) == engine_arguments(other)
    assert not [word for word in engine_arguments(one) if word.startswith("/")]
    changed = build_command(TensorRtLlmSettings(max_batch_size=65), of, Path("/c"), Path("/e/x"))
    assert engine_arguments(one) != engine_arguments(changed)


@pytest.mark.parametrize(
    ("settings", "of", "message"),
    [
        ({"max_num_tokens": 63}, {}, "--max_num_tokens 63 is less than 64"),
        ({"max_num_tokens": 128, "draft": {"max_draft_len": 2}}, {}, "--max_num_tokens 128 is less than 192"),
        ({"max_input_len": 2000}, {}, "--max_input_len 2000 is more than --max_seq_len 1024"),
        ({"use_paged_context_fmha": False, "max_num_tokens": 512}, {}, "which needs use_paged_context_fmha"),
        ({"use_paged_context_fmha": False, "draft": {"max_draft_len": 4}}, {}, "draft tokens need"),
        ({"max_beam_width": 2, "draft": {"max_draft_len": 4}}, {}, "draft tokens need --max_beam_width 1"),
        ({"gather_context_logits": True, "draft": {"max_draft_len": 4}}, {}, "does not go with draft tokens"),
        ({"use_fp8_context_fmha": True}, {}, "--use_fp8_context_fmha needs FP8, W4A8_AWQ, NVFP4 and an FP8 KV cache"),
        ({"use_fp8_context_fmha": True}, {"quantization": {"quant_algo": "FP8"}}, "kv_cache_quant_algo None"),
        ({"use_fp8_context_fmha": False}, {"quantization": FP8}, "needs --use_fp8_context_fmha enable"),
        (
            {},
            {"quantization": {**AWQ, "kv_cache_quant_algo": "FP8"}},
            "does not go with quant_algo W4A16_AWQ and an FP8",
        ),
        ({}, {"quantization": {"quant_algo": "W8A16", "kv_cache_quant_algo": "INT8"}}, "and an INT8 KV cache"),
        (
            {"plugins": {"gemm_plugin": "fp8"}},
            {},
            "--gemm_plugin fp8 acts on FP8; this checkpoint's quant_algo is None",
        ),
        ({"plugins": {"gemm_plugin": "nvfp4"}}, {"quantization": FP8}, "--gemm_plugin nvfp4 acts on NVFP4"),
        ({"plugins": {"gemm_plugin": "float16"}}, {}, "is not the checkpoint's dtype bfloat16"),
        ({"plugins": {"low_latency_gemm_plugin": "fp8"}}, {}, "--low_latency_gemm_plugin acts on FP8"),
        ({"plugins": {"gemm_allreduce_plugin": "bfloat16"}}, {}, "this checkpoint has tp_size 1"),
        ({"reduce_fusion": True}, {}, "--reduce_fusion fuses what ranks exchange; this checkpoint has tp_size 1"),
        ({"reduce_fusion": True}, {"tp": 2, "architecture": "MistralForCausalLM"}, "is for LlamaForCausalLM"),
        (
            {"fast_build": True},
            {"quantization": {"quant_algo": "W8A8_SQ_PER_CHANNEL"}},
            "--fast_build does not go with",
        ),
        ({"workers": 3}, {"tp": 2}, "--workers 3 is more than the checkpoint's 2 ranks"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], of: dict[str, Any], message: str) -> None:
    architecture = of.pop("architecture", None)
    made = config(**of)
    if architecture:
        made = made.changed(architecture=architecture)
    with pytest.raises(SetupError) as error:
        command(settings, made)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--multiple_profiles enable --opt_num_tokens 64", "exclude each other"),
        ("--kv_cache_type continuous", "an engine without in-flight batching"),
        ("--remove_input_padding disable", "an engine without in-flight batching"),
        ("--build_config b.json", "overrides all flags"),
        ("--context_fmha disable", "needs --context_fmha enable"),
        ("--lora_target_modules attn_q", "does nothing without --lora_plugin"),
        ("--lora_plugin auto", "needs --lora_target_modules"),
        ("--max_draft_len 4", "needs --speculative_decoding_mode"),
        ("--speculative_decoding_mode medusa", "needs --max_draft_len"),
        ("--max_seq_len 2048", "more than the model's 1024 positions"),
        ("--tokens_per_block 24", "no power of two"),
        ("--streamingllm enable", "no longer supported"),
        ("--user_buffer enable", "this checkpoint has tp_size 1"),
        ("--pp_reduce_scatter enable", "is for Mixtral"),
        ("--fuse_fp4_quant enable", "acts on NVFP4"),
        ("--fp8_rowwise_gemm_plugin auto", "acts on FP8_PER_CHANNEL_PER_TOKEN"),
        ("--max_batch_size 0", "leaves no room"),
    ],
)
def test_contradictions_that_settings_cannot_express_are_refused_too(flags: str, message: str) -> None:
    usual = ["--max_batch_size", "8"] if "max_batch_size" not in flags else []
    line = ["trtllm-build", "--checkpoint_dir", "c", *usual, *flags.split()]
    with pytest.raises(SetupError) as error:
        check_command(line, config())
    assert message in str(error.value)


def test_settings_refuse_what_they_do_not_know() -> None:
    for wrong in ({"extra_flags": "--x"}, {"tokens_per_block": 33}, {"kv_cache_type": "continuous"}):
        with pytest.raises(ValidationError):
            TensorRtLlmSettings.model_validate(wrong)


def test_every_setting_is_described() -> None:
    def fields(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        return list(schema["properties"].items())

    schema = TensorRtLlmSettings.model_json_schema()
    nested = ("plugins", "lora", "draft")  # These are described by their own sections.
    every = [pair for part in (schema, *schema["$defs"].values()) for pair in fields(part) if pair[0] not in nested]
    assert [name for name, field in every if not field.get("description")] == []


def test_the_container_gets_gpus_and_no_more_than_it_needs(tmp_path: Path) -> None:
    made = docker_command(["trtllm-build", "--x"], read=[tmp_path / "c"], write=[tmp_path / "e"], user="7:8")
    assert shlex.join(made) == (
        "docker run --rm --init --gpus all --network none --shm-size 2g --ulimit memlock=-1 --ulimit stack=67108864 "
        f"--user 7:8 --env HOME=/tmp --volume {tmp_path}/c:{tmp_path}/c:ro --volume {tmp_path}/e:{tmp_path}/e "
        "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3 trtllm-build --x"
    )
    assert made[-3] == TRITON_IMAGE


def test_a_colon_in_a_path_cannot_be_mounted() -> None:
    with pytest.raises(SetupError, match="takes the colon as a separator"):
        docker_command(["trtllm-build"], read=[Path("/a:b")], write=[])


def test_memory_limits_are_those_of_the_service() -> None:
    """What serves the engine and what builds it run with the same image and limits."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["gpu"]
    line = shlex.join(docker_command([], read=[], write=[], user="1:1"))
    assert f"--shm-size {service['shm_size']}" in line
    for name, limit in service["ulimits"].items():
        assert f"--ulimit {name}={limit}" in line
    assert TRITON_IMAGE in service["build"]["args"]["TRITON_IMAGE"]


def test_the_engine_is_served_from_where_compose_and_config_pbtxt_look() -> None:
    model = ModelRepository.load(ROOT / "model_repository", "tensorrt_llm").models["tensorrt_llm"]
    assert model.parameters["gpt_model_path"] == f"/{SERVED_ENGINE}"
    assert launch_command(SERVED_ENGINE, 1) == ["docker compose up gpu"]
    assert launch_command(Path("engines/llama"), 1) == ["ln -sfn llama engines/tensorrt_llm", "docker compose up gpu"]
    assert launch_command(Path("engines/my llama"), 1)[0] == "ln -sfn 'my llama' engines/tensorrt_llm"
    assert launch_command(Path("/elsewhere/llama"), 2) == [
        "cp -rT /elsewhere/llama engines/tensorrt_llm",
        '# in model_repository/tensorrt_llm/config.pbtxt: gpu_device_ids "0,1"',
        "docker compose up gpu",
    ]


def test_the_defaults_serve_what_config_pbtxt_asks_for() -> None:
    model = ModelRepository.load(ROOT / "model_repository", "tensorrt_llm").models["tensorrt_llm"]
    settings = TensorRtLlmSettings()
    assert model.max_batch_size <= settings.max_batch_size
    assert int(model.parameters["max_beam_width"]) <= settings.max_beam_width
    assert settings.use_paged_context_fmha


def test_dry_run_shows_the_build_in_the_image_and_the_launch() -> None:
    lines = dry_run(config(tp=2), TensorRtLlmSettings(), Path("/c/model"), Path("/e/model"))
    assert lines[0].startswith("docker run --rm")
    assert " --volume /c/model:/c/model:ro --volume /e:/e " in lines[0]
    assert f" {TRITON_IMAGE} trtllm-build --checkpoint_dir /c/model --output_dir /e/model " in lines[0]
    assert lines[-1] == "docker compose up gpu"


def test_dry_run_refuses_a_format_that_the_named_gpu_lacks() -> None:
    with pytest.raises(SetupError, match=r"FP8 needs compute capability 8\.9 or newer; A100"):
        dry_run(config(FP8), TensorRtLlmSettings(gpu="A100 80GB"), Path("/c"), Path("/e/x"))

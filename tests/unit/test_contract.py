"""The I/O of every committed config.pbtxt is the contract's, read with the real protobuf."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from python_backend.contract import MODELS, Model, Tensor
from python_backend.contract_page import contract_page
from python_backend.triton.settings import CpuEngineSettings

REPOSITORY = Path(__file__).parents[2] / "model_repository"
CONFIGS = sorted(path for path in REPOSITORY.rglob("*.pbtxt"))
CPU_PROFILES = {"cpu", "cpu-unary"}


def read(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def model_of(path: Path) -> Model:
    """The contract of a config file: with Slipstream's additions in the profiles of the CPU engine only."""
    folder = path.parent.parent if path.parent.name == "configs" else path.parent
    model = MODELS[folder.name]
    return model if path.stem in CPU_PROFILES else model.over_tensorrt_llm()


def signature(tensor: Tensor) -> tuple[object, ...]:
    return (tensor.name, tensor.dtype.pbtxt, tensor.dims, tensor.scalar)


def pbtxt_signature(tensor: object) -> tuple[object, ...]:
    message = tensor
    data_type = model_config_pb2.DataType.Name(message.data_type)  # type: ignore[attr-defined]
    return (message.name, data_type, tuple(message.dims), message.HasField("reshape"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_io_is_the_contract(path: Path) -> None:
    config, model = read(path), model_of(path)
    assert config.name == model.name
    assert [pbtxt_signature(t) for t in config.input] == [signature(t) for t in model.inputs]
    assert [pbtxt_signature(t) for t in config.output] == [signature(t) for t in model.outputs]
    optional = [(t.name, not t.required or bool(t.ensemble_name)) for t in model.inputs]
    assert [(t.name, t.optional) for t in config.input] == optional
    assert [(t.name, t.allow_ragged_batch) for t in config.input] == [(t.name, t.ragged) for t in model.inputs]


def test_every_model_of_the_repository_is_in_the_contract_and_runs_from_its_folder() -> None:
    folders = {path.name for path in REPOSITORY.iterdir() if path.is_dir()}
    assert folders == MODELS.keys()
    for folder in folders:
        assert (REPOSITORY / folder / "config.pbtxt").is_file()
        assert (REPOSITORY / folder / "1").is_dir()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "ensemble").rglob("*.pbtxt")), ids=lambda path: path.stem)
def test_ensemble_wires_tensors_of_equal_type(path: Path) -> None:
    config, front = read(path), model_of(path)
    types = {tensor.name: tensor.dtype for tensor in front.inputs}
    for step in config.ensemble_scheduling.step:
        model = MODELS[step.model_name]
        for name, source in step.input_map.items():
            assert types[source] == model.input(name).dtype, f"{step.model_name}.{name} <- {source}"
        mapped = set(step.input_map)
        assert mapped >= {tensor.name for tensor in model.inputs if tensor.required}
        types |= {target: model.output(name).dtype for name, target in step.output_map.items()}
    for output in front.outputs:
        assert types[output.name] == output.dtype
    used = {source for step in config.ensemble_scheduling.step for source in step.input_map.values()}
    assert used >= {tensor.name for tensor in front.inputs}, "an input of the ensemble goes nowhere"


def test_unary_profile_differs_from_cpu_in_the_transaction_policy_only() -> None:
    cpu, unary = (read(REPOSITORY / "tensorrt_llm" / "configs" / f"{name}.pbtxt") for name in ("cpu", "cpu-unary"))
    assert cpu.model_transaction_policy.decoupled
    assert not unary.model_transaction_policy.decoupled
    unary.model_transaction_policy.decoupled = True
    assert cpu == unary


def test_configs_hold_no_placeholders_and_explain_every_parameter() -> None:
    for path in CONFIGS:
        text = path.read_text()
        assert "${" not in text, path
        lines = text.splitlines()
        # A group of parameters may share the comment above its first line.
        for before, line in pairwise(lines):
            if line.startswith("parameters") and not before.startswith("parameters"):
                assert before.startswith("#"), f"{path}: no comment above {line}"


#: Parameters that the C++ backend of TensorRT-LLM 1.2 reads, as NVIDIA documents them: those left out of the file, too.
#: A parameter it does not know would be ignored without a word.
CPP_PARAMETERS = {
    "max_beam_width", "FORCE_CPU_ONLY_INPUT_TENSORS", "gpt_model_type", "gpt_model_path", "encoder_model_path",
    "max_tokens_in_paged_kv_cache", "max_attention_window_size", "sink_token_length", "batch_scheduler_policy",
    "kv_cache_free_gpu_mem_fraction", "cross_kv_cache_fraction", "kv_cache_host_memory_bytes",
    "kv_cache_onboard_blocks", "exclude_input_in_output", "cancellation_check_period_ms", "stats_check_period_ms",
    "iter_stats_max_iterations", "request_stats_max_iterations", "enable_kv_cache_reuse", "normalize_log_probs",
    "enable_chunked_context", "gpu_device_ids", "participant_ids", "num_nodes", "lora_cache_optimal_adapter_size",
    "lora_cache_max_adapter_size", "lora_cache_gpu_memory_fraction", "lora_cache_host_memory_bytes",
    "lora_prefetch_dir", "decoding_mode", "executor_worker_path", "lookahead_window_size", "lookahead_ngram_size",
    "lookahead_verification_set_size", "medusa_choices", "eagle_choices", "gpu_weights_percent",
    "enable_context_fmha_fp32_acc", "multi_block_mode", "cuda_graph_mode", "cuda_graph_cache_size",
    "speculative_decoding_fast_logits", "tokenizer_dir", "guided_decoding_backend", "xgrammar_tokenizer_info_path",
    "recv_poll_period_ms",
}  # fmt: skip
CPP_CHOICES = {
    "gpt_model_type": {"inflight_fused_batching", "inflight_batching"},
    "batch_scheduler_policy": {"guaranteed_no_evict", "max_utilization"},
    "decoding_mode": {"top_k", "top_p", "top_k_top_p", "beam_search", "medusa", "redrafter", "lookahead", "eagle"},
}


def test_the_tensorrt_llm_profile_holds_only_parameters_and_values_that_its_backend_knows() -> None:
    config = read(REPOSITORY / "tensorrt_llm" / "config.pbtxt")
    assert config.backend == "tensorrtllm"
    values = {key: parameter.string_value for key, parameter in config.parameters.items()}
    assert values.keys() <= CPP_PARAMETERS
    for key, choices in CPP_CHOICES.items():
        assert values[key] in choices


def test_the_cpu_profile_holds_every_parameter_that_the_cpu_engine_reads() -> None:
    config = read(REPOSITORY / "tensorrt_llm" / "configs" / "cpu.pbtxt")
    assert set(config.parameters) == set(CpuEngineSettings.model_fields)


def test_the_page_in_docs_is_current() -> None:
    written = (REPOSITORY.parent / "docs" / "contract.md").read_text()
    assert written == contract_page() + "\n", "write it anew: python -m python_backend contract > docs/contract.md"


@pytest.mark.parametrize("path", sorted(REPOSITORY.rglob("model.py")), ids=lambda path: path.parts[-3])
def test_model_py_has_a_few_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 10

"""Published config.json files are read, and what would change the numbers is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from build_engines.checkpoint.config import LinearScaling, Llama3Scaling
from build_engines.sources.hugging_face_config import HuggingFaceConfig
from python_backend.errors import SetupError

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",
    "vocab_size": 128256,
}
LLAMA3_SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
QWEN3 = QWEN2 | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 36,
    "max_window_layers": 36,
    "sliding_window": None,
}
GEMMA = {
    "architectures": ["GemmaForCausalLM"],
    "model_type": "gemma",
    "attention_bias": False,
    "head_dim": 256,
    "hidden_act": "gelu",
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "max_position_embeddings": 8192,
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "vocab_size": 256000,
}


def read(folder: Path, raw: dict[str, Any], without: tuple[str, ...] = (), **changes: Any) -> HuggingFaceConfig:
    kept = {key: value for key, value in (raw | changes).items() if key not in without}
    (folder / "config.json").write_text(json.dumps(kept))
    return HuggingFaceConfig.read(folder)


def test_published_dimensions(tmp_path: Path) -> None:
    config = read(tmp_path, LLAMA, rope_scaling=LLAMA3_SCALING).checkpoint_config()
    assert (config.head_size, config.num_key_value_heads, config.rotary_base) == (128, 8, 500_000)
    assert (config.dtype, config.tie_word_embeddings, config.attn_bias) == ("bfloat16", False, False)
    assert config.rotary_scaling == Llama3Scaling.model_validate(LLAMA3_SCALING)
    config = read(tmp_path, QWEN2).checkpoint_config()
    assert (config.head_size, config.attn_bias, config.qwen_type, config.qk_layernorm) == (128, True, "qwen2", False)
    assert (config.max_position_embeddings, config.rotary_base) == (32768, 1_000_000)
    config = read(tmp_path, QWEN3).checkpoint_config()
    assert (config.head_size, config.attn_bias, config.qwen_type, config.qk_layernorm) == (128, False, "qwen3", True)
    config = read(tmp_path, GEMMA).checkpoint_config()
    assert (config.head_size, config.hidden_act, config.tie_word_embeddings) == (256, "gelu", True)


@pytest.mark.parametrize("raw", [LLAMA, QWEN2, QWEN3, GEMMA], ids=lambda raw: str(raw["model_type"]))
def test_published_configs_need_no_notice(tmp_path: Path, raw: dict[str, Any]) -> None:
    named: dict[str, Any] = {"hidden_activation": "gelu_pytorch_tanh"} if raw is GEMMA else {}
    assert read(tmp_path, raw, **named).notices == ()


def test_smollm2_is_read(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "is_llama_config": True,
        "rope_interleaved": False,
        "transformers.js_config": {"dtype": "q4"},
    }
    described = read(tmp_path, LLAMA, tie_word_embeddings=True, **changes)
    assert described.notices == ()
    assert described.checkpoint_config().tie_word_embeddings


def test_old_llamas_have_as_many_key_value_heads_as_heads(tmp_path: Path) -> None:
    assert read(tmp_path, LLAMA, without=("num_key_value_heads",)).checkpoint_config().num_key_value_heads == 32


def test_both_names_of_the_dtype(tmp_path: Path) -> None:
    assert read(tmp_path, LLAMA, without=("torch_dtype",), dtype="float16").checkpoint_config().dtype == "float16"
    described = read(tmp_path, LLAMA, without=("torch_dtype",))
    assert described.checkpoint_config("float32").dtype == "float32"
    with pytest.raises(SetupError, match=r'key "torch_dtype" \(or "dtype"\) is missing'):
        described.checkpoint_config()


@pytest.mark.parametrize(
    ("rope", "base", "scaling"),
    [
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5, None),
        ({"rope_theta": 500000}, 5e5, None),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, 1e6, None),
        ({"rope_theta": 1e6, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, 1e6, None),
        ({"rope_parameters": {"rope_theta": 5e5, **LLAMA3_SCALING}}, 5e5, "llama3"),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3_SCALING | {"type": "llama3"}}, 5e5, "llama3"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}}, 1e4, "linear"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4}}, 1e4, "linear"),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": "default"}}, 1e4, None),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 1.0}}, 1e4, None),
    ],
)
def test_rope_of_transformers_4_and_5(tmp_path: Path, rope: dict[str, Any], base: float, scaling: str | None) -> None:
    config = read(tmp_path, LLAMA, without=tuple({"rope_theta", "rope_scaling"} - rope.keys()), **rope)
    found = config.checkpoint_config()
    assert found.rotary_base == base
    assert (
        found.rotary_scaling
        == {
            None: None,
            "linear": LinearScaling(factor=4.0),
            "llama3": Llama3Scaling.model_validate(LLAMA3_SCALING),
        }[scaling]
    )


def test_a_base_that_nobody_names_is_10000_for_the_first_llamas_and_gemma_only(tmp_path: Path) -> None:
    first = {"max_position_embeddings": 4096}
    for raw, changes in ((LLAMA, first), (GEMMA, {"hidden_act": "gelu_pytorch_tanh"})):
        described = read(tmp_path, raw, without=("rope_theta",), **changes)
        assert described.checkpoint_config().rotary_base == 10_000
        assert described.notices == ("config.json has no rope_theta; 10000 is used, as by transformers.",)
    for raw, changes in ((LLAMA, {}), (MISTRAL, first), (QWEN2, first), (QWEN3, first)):
        with pytest.raises(SetupError, match='key "rope_theta" is missing, and "rope_parameters"'):
            read(tmp_path, raw, without=("rope_theta",), **changes)
    with pytest.raises(SetupError, match='key "rope_theta" is missing'):
        read(tmp_path, LLAMA, without=("rope_theta",), rope_scaling=LLAMA3_SCALING, **first)


@pytest.mark.parametrize(
    ("raw", "changes", "window"),
    [
        (MISTRAL, {}, 4096),
        (MISTRAL, {"sliding_window": None}, None),
        (MISTRAL, {"sliding_window": 32768}, None),
        (QWEN2, {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 21}, 4096),
        (QWEN2, {"use_sliding_window": True, "sliding_window": 4096}, None),
        (QWEN2, {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": None}, 4096),
        (QWEN2, {"use_sliding_window": True}, None),
        (QWEN2, {"sliding_window": 4096}, None),
        (QWEN3, {"use_sliding_window": True, "sliding_window": 512, "layer_types": ["full_attention"] * 36}, None),
        (QWEN3, {"use_sliding_window": True, "sliding_window": 512, "layer_types": ["sliding_attention"]}, 512),
    ],
)
def test_a_sliding_window_limits_positions_and_says_so(
    tmp_path: Path, raw: dict[str, Any], changes: dict[str, Any], window: int | None
) -> None:
    described = read(tmp_path, raw, **changes)
    assert described.checkpoint_config().max_position_embeddings == (window or 32768)
    if window is None:
        assert described.notices == ()
    else:
        assert described.notices == (
            f"attention has a sliding window of {window} tokens, which the engines do not have: "
            f"max_position_embeddings is {window} instead of 32768.",
        )


def test_a_window_that_mistral_does_not_name_is_transformers_default(tmp_path: Path) -> None:
    described = read(tmp_path, MISTRAL, without=("sliding_window",))
    assert described.checkpoint_config().max_position_embeddings == 4096
    assert "sliding window of 4096 tokens" in described.notices[0]


def test_keys_that_are_not_known_are_told(tmp_path: Path) -> None:
    described = read(tmp_path, LLAMA, my_note="x", another=1)
    assert described.notices == ("config.json has keys that are not known and were ignored: another, my_note.",)


@pytest.mark.parametrize(
    ("activation", "is_told"),
    [
        ({"hidden_act": "gelu"}, True),
        ({"hidden_act": "gelu", "hidden_activation": None}, True),
        ({"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}, False),
        ({"hidden_act": "gelu_pytorch_tanh"}, False),
    ],
)
def test_gemma_always_means_the_tanh_form(tmp_path: Path, activation: dict[str, Any], is_told: bool) -> None:
    described = read(tmp_path, GEMMA, **activation)
    assert described.checkpoint_config().hidden_act == "gelu"
    assert [notice.partition(" is computed as ")[0] for notice in described.notices] == ['hidden_act "gelu"'] * is_told


SUPPORTED = (
    "Supported are LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, GemmaForCausalLM: "
    "Llama 2 and 3, Mistral, SmolLM, TinyLlama, Qwen2 and 2.5, Qwen3 (dense) and Gemma 1."
)


@pytest.mark.parametrize(
    ("raw", "changes", "message"),
    [
        (LLAMA, {"architectures": ["MixtralForCausalLM"]}, f"MixtralForCausalLM is not supported. {SUPPORTED}"),
        (LLAMA, {"architectures": ["Gemma2ForCausalLM"]}, "Gemma2ForCausalLM is not supported. Supported are"),
        (LLAMA, {"architectures": ["Qwen3MoeForCausalLM"]}, "Qwen3MoeForCausalLM is not supported"),
        (LLAMA, {"architectures": None}, "architectures is None; it must name one"),
        (LLAMA, {"architectures": ["LlamaForCausalLM", "X"]}, "it must name one"),
        (LLAMA, {"model_type": "mistral"}, "model_type is 'mistral'; LlamaForCausalLM calls for 'llama'"),
        (LLAMA, {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}, "auto_map names code of the model's own"),
        (LLAMA, {"quantization_config": {"quant_method": "awq"}}, "quantized already (quantization_config: awq)"),
        (LLAMA, {"compression_config": {}}, "quantized already (compression_config: None)"),
        (LLAMA, {"attention_bias": True}, "attention_bias is True; only False can be computed"),
        (QWEN3, {"attention_bias": True}, "attention_bias is True; only False can be computed"),
        (GEMMA, {"attention_bias": True}, "attention_bias is True; only False can be computed"),
        (LLAMA, {"mlp_bias": True}, "mlp_bias is True; only False can be computed"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; only 1.0 can be computed"),
        (LLAMA, {"rope_interleaved": True}, "rope_interleaved is True; only False can be computed"),
        (QWEN2, {"use_mrope": True}, "use_mrope is True; only False can be computed"),
        (LLAMA, {"num_local_experts": 8}, "num_local_experts is 8; only None can be computed"),
        (LLAMA, {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0; only None can be computed"),
        (LLAMA, {"logits_scaling": 8.0}, "logits_scaling is 8.0; only 1 can be computed"),
        (LLAMA, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling: rope_type is 'dynamic'; those"),
        (QWEN2, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "is 'yarn'; those that can be computed are"),
        (LLAMA, {"rope_scaling": {"rope_type": "longrope"}}, "rope_type is 'longrope'"),
        (LLAMA, {"rope_scaling": {"rope_type": "linear", "type": "dynamic"}}, "rope_type 'linear' and type 'dynamic'"),
        (LLAMA, {"rope_scaling": {"factor": 2.0}}, "rope_scaling has 'factor' and no rope_type that would use it"),
        (LLAMA, {"rope_scaling": {"type": "linear"}}, 'rope_scaling (rope_type linear): key "factor" is missing'),
        (LLAMA, {"rope_scaling": {"type": "linear", "factor": 0}}, 'key "factor" is 0'),
        (LLAMA, {"rope_scaling": LLAMA3_SCALING | {"beta": 1}}, '(rope_type llama3): unknown key "beta"'),
        (LLAMA, {"rope_scaling": [2.0]}, "rope_scaling is [2.0], not an object"),
        (LLAMA, {"rope_theta": "high"}, "rope_theta is 'high'; it must be a number above 0"),
        (LLAMA, {"rope_theta": 0}, "rope_theta is 0; it must be a number above 0"),
        (LLAMA, {"rope_parameters": {"rope_theta": 1e4}}, "contradicts rope_theta 500000.0"),
        (
            LLAMA,
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": LLAMA3_SCALING},
            "rope_parameters {'rope_type': 'default'} contradicts",
        ),
        (
            LLAMA,
            {"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.5}},
            "rope_parameters.partial_rotary_factor is 0.5; only 1.0 can be computed",
        ),
        (LLAMA, {"hidden_act": "gelu"}, "hidden_act is 'gelu'; LlamaForCausalLM is computed with 'silu'"),
        (GEMMA, {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'; GemmaForCausalLM is"),
        (GEMMA, {"hidden_act": "silu"}, "hidden_act is 'silu'; GemmaForCausalLM is computed with"),
        (LLAMA, {"sliding_window": 1024}, "sliding_window is 1024, layer_types None; LlamaForCausalLM has no window"),
        (GEMMA, {"layer_types": ["sliding_attention"]}, "GemmaForCausalLM has no window"),
        (QWEN3, {"layer_types": ["chunked_attention"]}, "key \"layer_types.0\" is 'chunked_attention'"),
        (LLAMA, {"torch_dtype": "float8_e4m3fn"}, "is 'float8_e4m3fn'"),
        (LLAMA, {"num_attention_heads": "many"}, "key \"num_attention_heads\" is 'many'"),
        (LLAMA, {"num_attention_heads": 24, "num_key_value_heads": 8}, "hidden_size 4096 is no multiple of num_att"),
        (LLAMA, {"num_key_value_heads": 7}, "num_attention_heads 32 is no multiple of num_key_value_heads 7"),
    ],
)  # fmt: skip
def test_what_would_change_the_numbers_is_refused(
    tmp_path: Path, raw: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SetupError, match=re.escape(message)):
        read(tmp_path, raw, **changes).checkpoint_config()


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        *((LLAMA, key) for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")),
        *((LLAMA, key) for key in ("num_attention_heads", "max_position_embeddings", "rms_norm_eps")),
        *((raw, "num_key_value_heads") for raw in (MISTRAL, QWEN2, QWEN3, GEMMA)),
        *((raw, "head_dim") for raw in (QWEN3, GEMMA)),
    ],
)
def test_a_missing_key_is_named(tmp_path: Path, raw: dict[str, Any], key: str) -> None:
    with pytest.raises(SetupError, match=f'config.json: key "{key}" is missing'):
        read(tmp_path, raw, without=(key,)).checkpoint_config()


@pytest.mark.parametrize(("text", "message"), [("{", "no valid JSON"), ("[]", "holds a list, not an object")])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SetupError, match=message):
        HuggingFaceConfig.read(tmp_path)

"""Keys of Hugging Face's ``config.json`` that are not read, and why that is safe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Keys that change what is computed, in some model of some version of transformers, with the values by which they do
#: not. A missing key counts as neutral: the class that ``architectures`` names would not look at it, or default to it.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1.0, None),
    "rotary_pct": (1.0, None),
    "rope_interleaved": (False, None),
    "rope_local_base_freq": (None,),
    "original_max_position_embeddings": (None,),
    "no_rope_layers": (None, []),
    "no_rope_layer_interval": (None, 0),
    "use_mrope": (False, None),
    "use_logn_attn": (False, None),
    "use_dynamic_ntk": (False, None),
    "attn_logit_softcapping": (None, 0, 0.0),
    "final_logit_softcapping": (None, 0, 0.0),
    "query_pre_attn_scalar": (None,),
    "attention_multiplier": (None,),
    "embedding_multiplier": (1, 1.0, None),
    "residual_multiplier": (1, 1.0, None),
    "logits_scaling": (1, 1.0, None),
    "clip_qkv": (None,),
    "use_qk_norm": (None, False),
    "use_bidirectional_attention": (None, False),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "pruned_heads": ({}, None),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0, 1),
    "n_routed_experts": (None, 0),
    "moe_intermediate_size": (None, 0),
}

#: Keys that say nothing about the numbers: training, generation, bookkeeping.
_IRRELEVANT = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_flash_attn_2_enabled", "_name_or_path",
    "attention_dropout", "attn_implementation", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "chunk_size_feed_forward", "cross_attention_hidden_size", "custom_generate", "decoder_start_token_id",
    "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id",
    "hidden_dropout", "hidden_dropout_prob", "id2label", "initializer_range", "is_decoder", "is_llama_config",
    "keys_to_ignore_at_inference", "label2id", "length_penalty", "license", "max_length", "max_new_tokens",
    "min_length", "model_max_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences",
    "output_attentions", "output_hidden_states", "output_scores", "pad_token_id", "prefix", "pretraining_tp",
    "problem_type", "remove_invalid_values", "repetition_penalty", "resid_pdrop", "return_dict",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torchscript",
    "transformers.js_config", "transformers_version", "typical_p", "unsloth_fixed", "unsloth_version", "use_bfloat16",
    "use_cache",
})  # fmt: skip


def not_neutral(raw: Mapping[str, Any], but: frozenset[str]) -> str | None:
    """The first key, but for those in ``but``, by which something else is computed, with its value."""
    for key, neutral in NEUTRAL.items():
        if key not in but and key in raw and raw[key] not in neutral:
            return f"{key} is {raw[key]!r}; only {neutral[0]!r} can be computed"
    return None


def unknown(raw: Mapping[str, Any], read: frozenset[str]) -> list[str]:
    """Keys that are neither in ``read`` nor listed here."""
    return sorted(set(raw) - read - NEUTRAL.keys() - _IRRELEVANT)

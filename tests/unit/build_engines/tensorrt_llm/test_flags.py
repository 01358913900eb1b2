"""The table of flags against a list kept by hand, and what command lines are refused for."""

from __future__ import annotations

import pytest

from build_engines.tensorrt_llm.flags import FLAGS, REPLACED, Kind, read_flags
from python_backend.errors import SetupError

#: The flags of `trtllm-build` 1.2 and their defaults; "-" for none, "off" for a switch.
WRITTEN = """
checkpoint_dir -
model_config -
build_config -
model_cls_file -
model_cls_name -
output_dir engine_outputs
workers 1
log_level info
profiling_verbosity layer_names_only
input_timing_cache -
output_timing_cache model.cache
dry_run off
monitor_memory off
enable_debug_output off
visualize_network -
strip_plan off
weight_sparsity off
weight_streaming off
fast_build off
logits_dtype -
gather_context_logits off
gather_generation_logits off
gather_all_token_logits off
max_batch_size 2048
max_input_len 1024
max_seq_len -
max_beam_width 1
max_num_tokens 8192
opt_num_tokens -
max_encoder_input_len 1024
max_prompt_embedding_table_size 0
kv_cache_type paged
tokens_per_block 32
lora_dir -
lora_ckpt_source hf
lora_target_modules -
max_lora_rank 64
speculative_decoding_mode -
max_draft_len 0
gpt_attention_plugin auto
bert_attention_plugin auto
gemm_plugin disable
gemm_swiglu_plugin disable
low_latency_gemm_plugin disable
low_latency_gemm_swiglu_plugin disable
fp8_rowwise_gemm_plugin disable
gemm_allreduce_plugin disable
nccl_plugin auto
moe_plugin auto
mamba_conv1d_plugin auto
lora_plugin disable
dora_plugin disable
context_fmha enable
bert_context_fmha_fp32_acc disable
remove_input_padding enable
use_paged_context_fmha enable
use_fp8_context_fmha enable
fuse_fp4_quant disable
paged_state enable
multiple_profiles disable
reduce_fusion disable
user_buffer disable
pp_reduce_scatter disable
norm_quant_fusion disable
streamingllm disable
use_fused_mlp enable
"""


def test_the_table_is_the_written_one() -> None:
    written = dict(line.split() for line in WRITTEN.strip().splitlines())
    table = {name: "off" if flag.kind is Kind.SWITCH else flag.default or "-" for name, flag in FLAGS.items()}
    assert table == written


def test_every_default_is_one_of_the_choices() -> None:
    for flag in FLAGS.values():
        assert bool(flag.choices) == (flag.kind is Kind.CHOICE), flag.name
        assert flag.default is None or not flag.choices or flag.default in flag.choices, flag.name
        assert flag.kind is not Kind.INT or flag.default is None or flag.default.isdecimal(), flag.name


def test_flags_are_read_with_their_values_and_aliases() -> None:
    line = "trtllm-build --checkpoint_dir c --lora_target_modules attn_q attn_v --strip_plan --max_decoder_seq_len 9"
    assert read_flags(line.split()) == {
        "checkpoint_dir": ("c",),
        "lora_target_modules": ("attn_q", "attn_v"),
        "strip_plan": (),
        "max_seq_len": ("9",),
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--max_batchsize 1", 'has no flag --max_batchsize; did you mean "max_batch_size"?'),
        ("--paged_kv_cache enable", "--paged_kv_cache is gone from TensorRT-LLM 1.2. Use --kv_cache_type paged."),
        ("--auto_parallel 2", "--auto_parallel is gone"),
        ("--kv_cache_type page", "--kv_cache_type is 'page', not one of continuous, paged, disabled; did you mean"),
        ("--gemm_plugin enable", "--gemm_plugin is 'enable', not one of auto, float16"),
        ("--max_batch_size many", "--max_batch_size is 'many', not a number"),
        ("--max_batch_size -1", "--max_batch_size is '-1', not a number"),
        ("--max_batch_size", "--max_batch_size takes one value, not none"),
        ("--max_batch_size 1 2", "--max_batch_size takes one value, not 1 2"),
        ("--strip_plan enable", "--strip_plan takes no value, not enable"),
        ("--workers 1 --workers 2", "--workers is given twice"),
        ("--max_seq_len 1 --max_decoder_seq_len 2", "--max_seq_len is given twice"),
        ("checkpoint", "'checkpoint' is no flag"),
    ],
)
def test_what_the_tool_would_not_take_is_refused(line: str, message: str) -> None:
    with pytest.raises(SetupError) as error:
        read_flags(["trtllm-build", *line.split()])
    assert message in str(error.value)


def test_no_replaced_flag_is_in_the_table() -> None:
    assert not REPLACED.keys() & FLAGS.keys()

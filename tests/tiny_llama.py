"""A tiny random Llama, from nothing: a checkpoint like any other, small enough to build in every test.

It has a real tokenizer (byte-level BPE over all 256 bytes, with chat tokens) and answers with random tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from build_engines.checkpoint.config import CheckpointConfig, Quantization
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.tensor_table import LM_HEAD, tensor_table
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.cpu.compile import compile_cpu_engine

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = ["the quick brown fox jumps over the lazy dog while seven wizards quietly judge my quartz vow"] * 4
VOCAB_SIZE = 320


def config(
    *,
    tied: bool = True,
    dtype: Literal["float16", "float32"] = "float16",
    quant_algo: Literal["W8A16"] | None = "W8A16",
    num_hidden_layers: int = 2,
    head_size: int = 32,
    max_position_embeddings: int = 1024,
) -> CheckpointConfig:
    """Hidden size 64, four query heads over two key/value heads."""
    return CheckpointConfig(
        architecture="LlamaForCausalLM",
        dtype=dtype,
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_size=head_size,
        intermediate_size=96,
        max_position_embeddings=max_position_embeddings,
        norm_epsilon=1e-5,
        rotary_base=10_000.0,
        tie_word_embeddings=tied,
        quantization=Quantization(quant_algo=quant_algo),
    )


def tensors(of: CheckpointConfig, *, seed: int = 0) -> dict[str, Array]:
    """Random weights: gains around 1, matrices large enough that the next token depends on all before it."""
    random = np.random.default_rng(seed)
    return {
        name: 1 + random.normal(0, 0.1, shape) if len(shape) == 1 else random.normal(0, 0.2, shape)
        for name, shape in ((name, entry.whole.shape) for name, entry in tensor_table(of).items())
        if not (name == LM_HEAD and of.tie_word_embeddings)
    }


def tokenizer() -> Tokenizer:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(_CORPUS, trainer)
    return trained


def tokenizer_files() -> dict[str, bytes]:
    named = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
    }
    return {"tokenizer.json": tokenizer().to_str().encode(), "tokenizer_config.json": json.dumps(named).encode()}


def checkpoint(folder: Path, of: CheckpointConfig | None = None, *, seed: int = 0) -> Path:
    """Write ``folder``/checkpoint and return it."""
    of = of or config()
    write_checkpoint(folder / "checkpoint", of, tensors(of, seed=seed).__getitem__, tokenizer_files())
    return folder / "checkpoint"


def engine(
    folder: Path,
    of: CheckpointConfig | None = None,
    *,
    seed: int = 0,
    max_seq_len: int | None = None,
    quantize_lm_head: bool | None = None,
) -> Path:
    """Write ``folder``/engine, from a checkpoint beside it, and return it."""
    compile_cpu_engine(
        checkpoint(folder, of, seed=seed),
        folder / "engine",
        max_seq_len=max_seq_len,
        quantize_lm_head=quantize_lm_head,
    )
    return folder / "engine"

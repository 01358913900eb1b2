"""``build --dry-run``: what a recipe would make, and the exact commands, without making anything."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.sharding import holds, rank_type
from build_engines.checkpoint.tensor_table import tensor_table
from build_engines.pipeline import recipe_config, recipe_source
from build_engines.recipe import Recipe
from build_engines.sources.hugging_face_config import HuggingFaceConfig
from build_engines.tensorrt_llm.compile import dry_run as tensorrt_llm_commands

_WIDTH = 110


def describe(recipe: Recipe) -> Iterator[str]:
    """Lines for a terminal; those that can be copied as they stand are indented by two.

    Without the source, the recipe's ``expects`` stands for it. Raises SetupError for all that can be known to fail.
    """
    source, notices = _source(recipe)
    config = recipe_config(recipe, source)
    yield f"source      {recipe.source}"
    yield from (f"note        {notice}" for notice in notices)
    yield f"checkpoint  {recipe.checkpoint_dir}: {_form(config)}, {_ranks(config)}"
    yield f"verify      {_verification(recipe)}"
    if recipe.cpu:
        yield f"CPU engine  {recipe.cpu_engine_dir}"
        yield "serve it with"
        yield f"  {shlex.join(['python', '-m', 'python_backend', 'serve', '--engine-dir', str(recipe.cpu_engine_dir)])}"
    if recipe.tensorrt_llm:
        engine_dir = recipe.tensorrt_llm_engine_dir
        build, *serve = tensorrt_llm_commands(
            config, recipe.tensorrt_llm, recipe.checkpoint_dir, engine_dir, recipe.max_seq_len
        )
        yield f"TensorRT-LLM engine  {engine_dir}, compiled on the GPU machine by"
        yield f"  mkdir -p {shlex.quote(str(engine_dir.parent))}"
        yield from _lines_of(build)
        yield "serve it with"
        yield from (f"  {command}" for command in serve)


def _lines_of(command: str) -> Iterator[str]:
    """One command for a shell, in lines that a terminal shows whole."""
    line = " "
    for argument in _arguments(shlex.split(command)):
        if len(line) + len(argument) > _WIDTH:
            yield f"{line} \\"
            line = "     "
        line += f" {argument}"
    yield line


def _arguments(words: list[str]) -> Iterator[str]:
    """Each flag with its value."""
    while words:
        word = words.pop(0)
        has_value = word.startswith("--") and words and not words[0].startswith("-")
        yield shlex.join([word, words.pop(0)] if has_value else [word])


def _source(recipe: Recipe) -> tuple[CheckpointConfig, tuple[str, ...]]:
    """Its config, and what the user should know of it."""
    if recipe.expects and not recipe.source.startswith("package:") and not recipe.source_path().exists():
        described = HuggingFaceConfig.read(recipe.expects.parent)
        return recipe.built_config(described.checkpoint_config()), described.notices
    source = recipe_source(recipe)
    return source.config, source.notices


def _form(config: CheckpointConfig) -> str:
    quantization = config.quantization
    group = f" in groups of {quantization.group_size}" if quantization.group_size else ""
    kv_cache = f", KV cache {quantization.kv_cache_quant_algo}" if quantization.kv_cache_quant_algo else ""
    return f"{quantization.quant_algo or 'weights'}{group} with {config.dtype}{kv_cache}"


def _ranks(config: CheckpointConfig) -> str:
    mapping = config.mapping
    entries = tensor_table(config).values()
    stages = [
        sum(rank_type(config, entry).size_bytes for entry in entries if holds(config, entry, stage))
        for stage in range(mapping.pp_size)
    ]
    return f"TP {mapping.tp_size} x PP {mapping.pp_size}, {max(stages) / 1e9:.2f} GB on the largest rank"


def _verification(recipe: Recipe) -> str:
    settings = recipe.verification
    match settings.text:
        case "none":
            return "weights"
        case "default":
            return f"weights, and predictions on {settings.max_tokens} tokens of Python's documentation"
        case files:
            return f"weights, and predictions on {settings.max_tokens} tokens of {', '.join(map(str, files))}"

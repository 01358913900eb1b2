"""The model that a plan is for, from whatever describes it. No weights are read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from build_engines.checkpoint.config import CONFIG_FILE, CheckpointConfig, ParallelMapping, Quantization
from build_engines.planning.formats import FORMATS, KV_CACHES
from build_engines.planning.recommend import Choices
from build_engines.recipe import Recipe
from build_engines.sources.hugging_face_config import HuggingFaceConfig
from build_engines.sources.open_source import open_source
from python_backend.errors import SetupError

_EXPECTED = "a config.json, a Hugging Face directory, a .gguf file, a TensorRT-LLM checkpoint or a recipe"


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """``config`` is unquantized, on one rank; ``choices`` is what the file decides about its formats and ranks."""

    config: CheckpointConfig
    choices: Choices = field(default_factory=Choices)
    max_seq_len: int | None = None
    gpu: str | None = None
    notices: tuple[str, ...] = ()


def read_model(path: Path) -> PlannedModel:
    """Raises SetupError that says what ``path`` can be, or what is wrong with it."""
    if path.suffix in (".yaml", ".yml"):
        return _from_recipe(Recipe.read(path))
    if path.suffix == ".gguf":
        source = open_source(path)
        return _sixteen_bits(source.config, source.notices)
    directory = path.parent if path.name == CONFIG_FILE else path
    if not (directory / CONFIG_FILE).is_file():
        raise SetupError(f"{path} describes no model; name {_EXPECTED}.")
    if _is_checkpoint(directory / CONFIG_FILE):
        return _from_checkpoint(CheckpointConfig.read(directory))
    config = HuggingFaceConfig.read(directory)
    return _sixteen_bits(config.checkpoint_config(), config.notices)


def _is_checkpoint(config_file: Path) -> bool:
    """TensorRT-LLM names one ``architecture``, Hugging Face a list of ``architectures``."""
    try:
        keys = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SetupError(f"{config_file} is no valid JSON ({error}). Copy it again.") from error
    return isinstance(keys, dict) and "architecture" in keys


def _from_checkpoint(config: CheckpointConfig) -> PlannedModel:
    """Its formats are decided if it is quantized, its ranks if it has more than one."""
    plain = config.changed(
        quantization=Quantization().model_dump(), mapping=ParallelMapping().model_dump(), use_parallel_embedding=False
    )
    choices = Choices()
    if config.quantization != Quantization():
        form = next(form for form in FORMATS.values() if form.quant_algo == config.quantization.quant_algo)
        kv_cache = KV_CACHES[config.quantization.kv_cache_quant_algo]
        choices = Choices(form=replace(form, group_sizes=(config.quantization.group_size,)), kv_caches=(kv_cache,))
    if config.mapping.world_size > 1:
        choices = replace(choices, tp_size=config.mapping.tp_size, pp_size=config.mapping.pp_size)
    return PlannedModel(plain, choices)


def _from_recipe(recipe: Recipe) -> PlannedModel:
    """A recipe decides everything but the length of requests and how many there are."""
    settings = recipe.quantization
    model = read_model(recipe.expects or recipe.source_path())
    config = recipe.built_config(model.config)
    form = FORMATS[settings.format]
    engine = recipe.tensorrt_llm
    return PlannedModel(
        config=config.changed(dtype=settings.dtype) if settings.dtype else config,
        choices=Choices(
            form=replace(form, group_sizes=(settings.group_size,)) if settings.group_size else form,
            kv_caches=(settings.kv_cache,),
            tp_size=recipe.parallel.tp_size,
            pp_size=recipe.parallel.pp_size,
            max_batch_size=engine.max_batch_size if engine else None,
            max_num_tokens=engine.max_num_tokens if engine else None,
        ),
        max_seq_len=recipe.max_seq_len,
        gpu=engine.gpu if engine else None,
        notices=model.notices,
    )


def _sixteen_bits(config: CheckpointConfig, notices: tuple[str, ...]) -> PlannedModel:
    if config.dtype != "float32":
        return PlannedModel(config, notices=notices)
    notice = "the weights are float32; this plan is for an engine in 16 bits."
    return PlannedModel(config.changed(dtype="float16"), notices=(*notices, notice))

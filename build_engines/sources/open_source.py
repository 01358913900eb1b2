"""Any model that can be imported, told apart by what is there."""

from __future__ import annotations

from pathlib import Path

from build_engines.checkpoint.config import CONFIG_FILE
from build_engines.checkpoint.reader import rank_file
from build_engines.sources.gguf_model import GgufModel
from build_engines.sources.hugging_face import HuggingFaceModel
from build_engines.sources.model_source import ModelSource
from build_engines.sources.safetensors_shards import INDEX_FILE, SINGLE_FILE
from python_backend.errors import SetupError

_EXPECTED = f"a Hugging Face directory ({CONFIG_FILE}, safetensors, tokenizer.json) or a .gguf file"


def open_source(path: Path) -> ModelSource:
    """Open ``path`` by what it is, and check everything but the weights' values.

    Raises SetupError that says what was expected, or what is wrong with the model.
    """
    if path.is_dir():
        _check_directory(path)
        return HuggingFaceModel.open(path)
    if not path.exists():
        raise SetupError(f"{path} does not exist. Name {_EXPECTED}.")
    if path.suffix != ".gguf":
        raise SetupError(f"{path} cannot be imported. Name {_EXPECTED}.")
    return GgufModel.open(path)


def _check_directory(directory: Path) -> None:
    """What is recognized as something else has a message of its own."""

    def has(pattern: str) -> bool:
        return any(directory.glob(pattern))

    if has(rank_file(0)):
        raise SetupError(
            f"{directory} is a TensorRT-LLM checkpoint, which has been imported already. Compile engines from it "
            f"with `python -m build_engines compile-cpu`, or name the model that it was made from: {_EXPECTED}."
        )
    if has("adapter_config.json") and not has(CONFIG_FILE):
        raise SetupError(f"{directory} is a LoRA adapter. Name the model that it belongs to: {_EXPECTED}.")
    if not has(CONFIG_FILE):
        found = sorted(directory.glob("*.gguf"))
        instead = f" It contains {found[0].name}: name that file." if found else ""
        raise SetupError(f"{directory} has no {CONFIG_FILE}; it must be {_EXPECTED}.{instead}")
    if has("*.bin") and not has(SINGLE_FILE) and not has(INDEX_FILE):
        raise SetupError(
            f"{directory} has its weights in {next(directory.glob('*.bin')).name}, a format that can carry code. "
            "Make safetensors of them with transformers: `from transformers import AutoModelForCausalLM as Model; "
            f"Model.from_pretrained({str(directory)!r}, dtype='auto').save_pretrained({str(directory)!r})`."
        )

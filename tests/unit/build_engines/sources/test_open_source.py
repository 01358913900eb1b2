"""What a path is decides how it is opened; what is no model has a message of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from build_engines.sources.gguf_model import GgufModel
from build_engines.sources.hugging_face import HuggingFaceModel
from build_engines.sources.open_source import open_source
from python_backend.errors import SetupError
from tests import tiny_llama, tiny_models
from tests.unit.build_engines.sources.random_models import random_model, save
from tests.unit.build_engines.sources.tiny_gguf import config, write_gguf


def test_a_directory_is_hugging_face_and_a_gguf_file_is_gguf(tmp_path: Path) -> None:
    llama = tiny_models.config("LlamaForCausalLM")
    assert isinstance(open_source(save(random_model(llama), llama, tmp_path / "model")), HuggingFaceModel)
    gguf = write_gguf(tmp_path / "model.gguf", config(), tiny_llama.tensors(config()))
    assert isinstance(open_source(gguf), GgufModel)


def refused(path: Path, message: str) -> None:
    with pytest.raises(SetupError, match=re.escape(message)):
        open_source(path)


def test_what_is_no_model_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    expected = "a Hugging Face directory (config.json, safetensors, tokenizer.json) or a .gguf file"
    refused(tmp_path / "nothing", f"nothing does not exist. Name {expected}.")
    (tmp_path / "model.pt").touch()
    refused(tmp_path / "model.pt", f"model.pt cannot be imported. Name {expected}.")
    refused(tmp_path, f"has no config.json; it must be {expected}.")
    (tmp_path / "model.gguf").touch()
    refused(tmp_path, "It contains model.gguf: name that file.")
    refused(tmp_path / "model.gguf", "cannot be read as GGUF")


def test_a_tensorrt_llm_checkpoint_is_recognized(tmp_path: Path) -> None:
    refused(tiny_llama.checkpoint(tmp_path), "is a TensorRT-LLM checkpoint, which has been imported already")


def test_a_lora_adapter_is_recognized(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "is a LoRA adapter. Name the model that it belongs to")


def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    refused(tmp_path, "has its weights in pytorch_model.bin, a format that can carry code. Make safetensors")

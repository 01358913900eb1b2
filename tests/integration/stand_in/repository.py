"""A model repository as a TensorRT-LLM server has it, with the stand-in where that engine would be."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tests import tiny_llama
from tests.integration.conftest import MODEL_REPOSITORY

HERE = Path(__file__).parent


def tokenizer_dir(folder: Path, scripts: dict[str, str]) -> Path:
    """Where the tokenizer is, and what the stand-in will say."""
    folder.mkdir()
    for name, content in tiny_llama.tokenizer_files().items():
        (folder / name).write_bytes(content)
    (folder / "scripts.json").write_text(json.dumps(scripts))
    return folder


class StandInRepository:
    """``path`` is the repository; models are added to it one by one."""

    def __init__(self, folder: Path, tokenizer: Path) -> None:
        self.path = folder / "model_repository"
        self._tokenizer = tokenizer
        self.path.mkdir()
        self._copy("preprocessing", "preprocessing", {})

    def add_front_door(self, name: str, **parameters: str) -> None:
        """`tensorrt_llm_bls` under any name."""
        self._copy("tensorrt_llm_bls", name, parameters)

    def add_engine(self, name: str, **parameters: str) -> None:
        """The stand-in with the tensors of `tensorrt_llm`."""
        said = {"max_draft_len": "0", "step_ms": "10", "wrong_every": "0"} | parameters
        said["gpt_model_path"] = str(self._tokenizer)
        self._copy("tensorrt_llm", name, said)
        config = self.path / name / "config.pbtxt"
        config.write_text(config.read_text().replace('backend: "tensorrtllm"', 'backend: "python"'))
        (self.path / name / "1").mkdir(exist_ok=True)
        shutil.copy(HERE / "model.py", self.path / name / "1" / "model.py")

    def _copy(self, model: str, name: str, parameters: dict[str, str]) -> None:
        shutil.copytree(MODEL_REPOSITORY / model / "1", self.path / name / "1")
        text = (MODEL_REPOSITORY / model / "config.pbtxt").read_text()
        text = re.sub(r'^name: ".*"', f'name: "{name}"', text, count=1, flags=re.MULTILINE)
        for key, value in parameters.items():
            if key == "decoupled":
                text = text.replace("decoupled: True", f"decoupled: {value}")
                continue
            text, count = re.subn(rf'(key: "{key}" value {{ string_value: )"[^"]*"', rf'\1"{value}"', text)
            if not count:
                text += f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
        (self.path / name / "config.pbtxt").write_text(text)

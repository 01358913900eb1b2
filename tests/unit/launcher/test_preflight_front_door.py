"""What is refused before a front door is started over engines that it does not go with."""

from __future__ import annotations

import json
from pathlib import Path

from python_backend.launcher.model_repository import ModelRepository
from python_backend.launcher.preflight.front_door import check_front_door


def engine(directory: Path, vocab_size: int, max_draft_len: int = 0, max_seq_len: int = 100) -> Path:
    """A TensorRT-LLM engine, as far as it is looked at here."""
    directory.mkdir()
    config = {
        "version": "1.2.1",
        "pretrained_config": {"mapping": {"world_size": 1}, "vocab_size": vocab_size},
        "build_config": {"max_draft_len": max_draft_len, "max_seq_len": max_seq_len},
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "rank0.engine").write_bytes(b"engine")
    return directory


def load(folder: Path, **models: dict[str, str]) -> ModelRepository:
    """Models with their parameters; the backend is one of them."""
    for name, parameters in models.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        backend = parameters.pop("backend", "python")
        lines = (
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()
        )
        (folder / name / "config.pbtxt").write_text("\n".join([f'backend: "{backend}"', *lines]))
    return ModelRepository.load(folder, "tensorrt_llm")


def findings(folder: Path, target: Path, draft: Path | None = None, **front: str) -> list[str]:
    names = {"tensorrt_llm_model_name": "tensorrt_llm"}
    models = {"tensorrt_llm": {"backend": "tensorrtllm", "gpt_model_path": str(target)}, "preprocessing": {}}
    if draft is not None:
        names["tensorrt_llm_draft_model_name"] = "tensorrt_llm_draft"
        models["tensorrt_llm_draft"] = {"backend": "tensorrtllm", "gpt_model_path": str(draft)}
    repository = load(folder, tensorrt_llm_bls=names | front, **models)
    return [str(finding) for finding in check_front_door(repository, None)]


def test_engines_that_go_together(tmp_path: Path) -> None:
    target, draft = engine(tmp_path / "target", 320, max_draft_len=5), engine(tmp_path / "draft", 320)
    assert findings(tmp_path / "models", target, draft, max_draft_len="5") == []
    assert findings(tmp_path / "others", target) == []


def test_a_target_that_verifies_no_drafts(tmp_path: Path) -> None:
    [found] = findings(tmp_path / "models", engine(tmp_path / "target", 320), max_draft_len="5")
    assert "says max_draft_len 5; tensorrt_llm verifies 0" in found
    assert "or build the engine with `draft: {max_draft_len: ...}` in its recipe." in found


def test_vocabularies_that_differ(tmp_path: Path) -> None:
    target, draft = engine(tmp_path / "target", 320), engine(tmp_path / "draft", 512)
    [found] = findings(tmp_path / "models", target, draft)
    assert "tensorrt_llm has a vocabulary of 320 tokens, tensorrt_llm_draft one of 512" in found


def test_a_draft_whose_context_is_shorter(tmp_path: Path) -> None:
    target = engine(tmp_path / "target", 320)
    [found] = findings(tmp_path / "models", target, engine(tmp_path / "draft", 320, max_seq_len=99))
    assert "tensorrt_llm takes 100 tokens of prompt and answer, tensorrt_llm_draft only 99" in found
    assert findings(tmp_path / "others", target, engine(tmp_path / "longer", 320, max_seq_len=101)) == []


def test_a_front_door_that_is_wrong_about_its_engine(tmp_path: Path) -> None:
    [found] = findings(tmp_path / "models", engine(tmp_path / "target", 320), target_backend="python")
    assert "says target_backend 'python'; tensorrt_llm runs on 'tensorrtllm'" in found


def test_what_is_wrong_with_an_engine_is_told_elsewhere(tmp_path: Path) -> None:
    assert findings(tmp_path / "models", tmp_path / "none", max_draft_len="5") == []


def test_the_repository_as_it_is_committed() -> None:
    root = Path(__file__).parents[3] / "model_repository"
    for profile in ("cpu", "cpu-unary", "tensorrt_llm"):
        found = list(check_front_door(ModelRepository.load(root, profile), None))
        assert [str(finding) for finding in found] == [], profile

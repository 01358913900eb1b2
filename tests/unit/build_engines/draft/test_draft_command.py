"""``python -m build_engines draft`` and ``build`` on a recipe of a draft; the draft that comes along with the demo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from build_engines.__main__ import main
from build_engines.checkpoint.reader import Checkpoint
from build_engines.draft.weights_file import read_evaluation
from build_engines.sources.demo_model import demo_gguf
from build_engines.sources.open_source import open_source
from build_engines.verification.decoder import Decoder
from python_backend.engine.manifest import CpuManifest
from tests import tiny_llama
from tests.unit.build_engines.draft import tiny_drafts
from tests.unit.build_engines.sources.tiny_gguf import config, write_gguf

ROOT = Path(__file__).parents[4]
RECIPE = ROOT / "recipes" / "smollm2-135m-draft.yaml"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe for a draft of a tiny model, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_gguf(tmp_path / "model.gguf", config(), tiny_llama.tensors(config()))
    return change(tmp_path / "tiny.yaml")


def change(path: Path, *, draft: dict[str, Any] | None = None, **keys: Any) -> Path:
    plain: dict[str, Any] = {
        "name": "tiny",
        "source": "model.gguf",
        "draft": tiny_drafts.settings(Path(), layers=[1], vocab_size=20, training={"steps": 5}).model_dump(mode="json"),
        "quantization": {"format": "int8_wo", "dtype": "float16"},
        "verification": {"text": "none"},
        "cpu": {},
    }
    path.write_text(yaml.safe_dump(plain | {"draft": plain["draft"] | (draft or {})} | keys))
    return path


def test_a_draft_is_trained_and_built(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", recipe.name]) == 1
    assert "weights/layers.safetensors does not exist. Make it with `python -m build_engines draft" in (
        capsys.readouterr().err
    )
    assert main(["draft", recipe.name, "--dry-run"]) == 0
    assert "proposes  20 of 28 tokens" in capsys.readouterr().out
    assert main(["draft", recipe.name]) == 0
    assert "accepted of 4" in capsys.readouterr().out

    assert main(["build", recipe.name]) == 0
    checkpoint = Checkpoint.open(Path("checkpoints/tiny"))
    assert checkpoint.config.num_hidden_layers == 1
    assert json.loads((checkpoint.directory / "draft_evaluation.json").read_text())["steps"] == 5
    manifest = CpuManifest.load(Path("engines/tiny-cpu"))
    assert manifest.draft_vocab_size == 20
    assert manifest.accuracy
    assert manifest.accuracy["acceptance_rate"] == read_evaluation(Path("weights")).acceptance.greedy
    capsys.readouterr()
    assert main(["build", recipe.name]) == 0
    assert capsys.readouterr().out.count("up to date") == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"draft": {"layers": [5]}}, "draft.layers names layer 5; the target's are 0 to 1. Name layers that it has."),
        ({"draft": {"layers": []}}, 'key "draft.layers" is []'),
        ({"draft": {"vocab_size": 1000}}, "draft.vocab_size is 1000; the target has 28 tokens."),
        ({"draft": {"layer": [0]}}, 'unknown key "draft.layer"; did you mean "draft.layers"'),
        ({"draft": {"text": {"temperatures": [0.5]}}}, "draft.text.temperatures are [0.5]"),
        ({"draft": {"text": {"prompts": ["none.txt"]}}}, "draft.text.prompts cannot be read"),
        ({"merge_lora": "adapter"}, "draft: and merge_lora: cannot be had together"),
    ],
)
def test_what_cannot_be_made_is_refused(
    recipe: Path, keys: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(recipe, **keys)
    assert main(["draft", recipe.name]) == 1
    assert message in capsys.readouterr().err
    assert not Path("weights").exists()


def test_requests_of_ones_own_can_be_too_few(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("requests.txt").write_text("Why?\n\nHow?\n")
    change(recipe, draft={"text": {"prompts": ["requests.txt"]}})
    assert main(["draft", recipe.name]) == 1
    assert "draft.text.prompts has 2 requests; at least 10 are needed" in capsys.readouterr().err


def test_a_recipe_without_a_draft_trains_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draft", str(ROOT / "recipes" / "smollm2-135m-int8.yaml")]) == 1
    assert "has no draft: section" in capsys.readouterr().err


def test_a_draft_of_other_layers_or_another_target_is_told(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draft", recipe.name]) == 0
    change(recipe, draft={"layers": [0]})
    capsys.readouterr()
    assert main(["build", recipe.name]) == 1
    assert "holds a draft with layers [1]; the recipe asks for [0]. Make it again" in capsys.readouterr().err
    change(recipe, draft={"vocab_size": None})
    assert main(["build", recipe.name]) == 1
    assert "holds a draft with vocab_size 20; the recipe asks for None." in capsys.readouterr().err

    change(recipe)
    write_gguf(Path("model.gguf"), config(), tiny_llama.tensors(config(), seed=1))
    assert main(["build", recipe.name]) == 0
    assert "trained for another model of the same shape" in capsys.readouterr().out


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the demo's draft was built."""
    folder = tmp_path_factory.mktemp("draft")
    with chdir(folder):
        assert main(["build", str(RECIPE)]) == 0
        yield folder


def test_the_demo_draft_is_accepted_as_often_as_recorded(demo: Path) -> None:
    """On every third of the answers that the record is of, kept here: within what so few tokens tell."""
    recorded = read_evaluation(RECIPE.with_suffix("")).acceptance
    checkpoint = Checkpoint.open(demo / "checkpoints" / RECIPE.stem)
    vocabulary = checkpoint.draft_vocabulary()
    assert vocabulary is not None
    decoder = Decoder(checkpoint.config, checkpoint.tensor)
    right: list[torch.Tensor] = []
    for text in json.loads((Path(__file__).parent / "demo_texts.json").read_text()):
        ids = torch.tensor(text["token_ids"])
        written = slice(text["prompt_tokens"] - 1, None)
        logits = decoder(ids[:-1])[written]
        proposed = torch.from_numpy(vocabulary)[logits[:, vocabulary].argmax(dim=-1)]
        right.append(proposed == ids[1:][written])
    accepted = torch.cat(right).float().mean().item()
    assert accepted == pytest.approx(recorded.greedy, abs=0.05)


def test_the_demo_draft_is_small_enough_to_travel_and_for_the_demo_target() -> None:
    assert sum(path.stat().st_size for path in RECIPE.with_suffix("").iterdir()) < 10_000_000
    assert read_evaluation(RECIPE.with_suffix("")).target_sha256 == open_source(demo_gguf()).sha256()

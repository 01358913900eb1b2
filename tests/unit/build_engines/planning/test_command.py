"""The command: its report at two widths, its JSON, its recipe, and its refusals."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.planning.budget_bar import bar, parts
from build_engines.planning.command import add_plan_parser
from build_engines.planning.memory import RankBudget
from build_engines.planning.model_file import read_model
from build_engines.recipe import Recipe
from python_backend.errors import SetupError
from tests.unit.build_engines.planning.published import MODELS, spread

LLAMA_8B, LLAMA_70B = MODELS / "Llama-3.1-8B", MODELS / "Llama-3.1-70B"


def run(*arguments: str | Path) -> None:
    parser = argparse.ArgumentParser()
    add_plan_parser(parser.add_subparsers())
    options = parser.parse_args(["plan", *map(str, arguments)])
    options.run(options)


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_stays_within_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    run(LLAMA_8B, "--gpus", "2x A100 80GB")
    shown = capsys.readouterr().out
    assert max(cell_len(line) for line in shown.splitlines()) <= width
    assert "Llama-3.1-8B on 2 x A100 PCIe 80GB" in shown
    assert "…" not in shown
    (filled,) = (line for line in shown.splitlines() if line.startswith("0-1  █"))
    assert len(filled) >= min(width, 100) - 6


def test_the_recipe_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    run(LLAMA_70B, "--gpus", "2 x RTX 3090")
    lines = capsys.readouterr().out.partition("recipe\n")[2]
    keys = yaml.safe_load(lines) | {"name": "llama", "source": "somewhere"}
    recipe = Recipe.model_validate(keys)
    assert recipe.quantization.format == "int4_awq"
    assert recipe.parallel.tp_size == 2
    assert recipe.tensorrt_llm is not None


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    run(LLAMA_8B / "config.json", "--gpus", "L4", "--json")
    values = json.loads(capsys.readouterr().out)
    assert values["fits"]
    assert values["kv_bytes_per_token_and_rank"] == 128 * 1024
    (memory,) = values["memory"]
    held = sum(memory[f"{part}_bytes"] for part in ("weights", "activation", "buffer", "overhead", "kv_cache", "free"))
    assert held == memory["usable_bytes"]
    assert values["upper_bounds"]["decode"][0]["requests"] == 1


def test_what_does_not_fit_fails_after_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SetupError, match=r"does not fit.*smallest change that fits: 2 x RTX 4090"):
        run(LLAMA_70B, "--gpus", "RTX 4090")
    shown = capsys.readouterr().out
    assert "!!!!!!!!" in shown
    assert "Each of these alone makes it fit" in shown


def test_a_gpu_by_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    run(LLAMA_8B, "--gpu-memory-gb", "24", "--gpu-bandwidth-gbs", "1000", "--sm", "89", "--json")
    values = json.loads(capsys.readouterr().out)
    assert values["memory"][0]["usable_bytes"] == int(24 * 2**30 * 0.98)
    assert values["upper_bounds"]["decode"][0]["bound"] == "memory"


def test_a_checkpoint_decides_formats_and_ranks(tmp_path: Path) -> None:
    config = spread("Llama-3.1-8B", "fp8", "fp8", tp=2)
    (tmp_path / "config.json").write_text(config.to_json(), encoding="utf-8")
    read = read_model(tmp_path)
    assert read.choices.form is not None
    assert (read.choices.form.name, read.choices.kv_caches) == ("fp8", ("fp8",))
    assert (read.choices.tp_size, read.choices.pp_size) == (2, 1)
    assert read.config == CheckpointConfig.model_validate(spread("Llama-3.1-8B").model_dump())


def test_a_recipe_decides_all_that_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {
        "name": "llama", "source": "not-here", "expects": str(LLAMA_8B / "config.json"),
        "quantization": {"format": "fp8", "kv_cache": "fp8"}, "parallel": {"tp_size": 2}, "max_seq_len": 8192,
        "tensorrt_llm": {"gpu": "H100 SXM", "max_batch_size": 32, "max_num_tokens": 4096},
    }  # fmt: skip
    path = tmp_path / "llama.yaml"
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    run(path, "--json")
    values = json.loads(capsys.readouterr().out)
    assert (values["gpu"]["name"], values["gpu"]["count"]) == ("H100 SXM", 2)
    assert (values["format"], values["kv_cache"], values["tp_size"]) == ("fp8", "fp8", 2)
    assert (values["max_batch_size"], values["max_num_tokens"], values["max_seq_len"]) == (32, 4096, 8192)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], 'name the GPUs, as in --gpus "2x A100 80GB"'),
        (["--gpus", "A10", "--format", "int4_akq"], 'did you mean "int4_awq"?'),
        (["--gpu-memory-gb", "24"], "--gpu-bandwidth-gbs and --sm missing"),
        (
            ["--gpus", "A10", "--gpu-memory-gb", "24", "--gpu-bandwidth-gbs", "600", "--sm", "86"],
            "--gpus names another one",
        ),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(SetupError) as refused:
        run(LLAMA_8B, *arguments)
    assert message in str(refused.value)


def test_what_describes_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"describes no model; name a config\.json"):
        run(tmp_path, "--gpus", "A10")


@given(*[st.integers(0, 10**11)] * 4, st.integers(1, 10**11), st.integers(10, 200))
def test_a_bar_is_as_wide_as_asked(
    weights: int, activations: int, buffers: int, overhead: int, usable: int, width: int
) -> None:
    rank = RankBudget(usable, weights, activations, buffers, overhead, kv_cache_fraction=0.9)
    shown = bar(rank, width).plain
    assert len(shown) == width
    if rank.missing_bytes:
        assert shown.count("!") == pytest.approx(width * rank.missing_bytes / rank.fixed_bytes, abs=1)
        return
    for part in parts(rank):
        # A small part takes one character, which up to four others give away.
        assert shown.count(part.glyph) == pytest.approx(width * part.size_bytes / usable, abs=5)
        assert (part.glyph in shown) == (part.size_bytes > 0)

"""The commands of the README, as they stand there, on the ports that they name."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SPECULATION = (ROOT / "docs" / "speculation.md").read_text()


def blocks(language: str, heading: str, page: str = README) -> list[str]:
    """The code blocks of a language under a heading."""
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture(scope="module")
def make_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`make serve`, serving; its output."""
    output = tmp_path_factory.mktemp("serve") / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            ["make", "serve"], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline_s = time.monotonic() + 180
            while " -m client" not in output.read_text():
                assert process.poll() is None, output.read_text()
                assert time.monotonic() < deadline_s, output.read_text()
                time.sleep(0.2)
            yield output
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)


def shell(script: str) -> str:
    result = subprocess.run(["bash", "-ec", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_commands_under_ask_it_something_answer(make_serve: Path) -> None:
    client, curl = blocks("sh", "Ask it something")
    assert len(shell(client).split()) > 10
    events = [line for line in shell(curl).splitlines() if line.startswith("data: ")]
    assert len(events) > 1
    assert '"finish_reason":"length"' in events[-1]


def test_the_command_under_speculation_asks_for_drafts_and_gets_them(make_serve: Path) -> None:
    (curl,) = blocks("sh", "Ask for it", SPECULATION)
    # An engine that has just started may still find out what is worth guessing.
    answers = [json.loads(shell(curl)) for _ in range(3)]
    assert all(answer["text_output"] for answer in answers)
    assert max(answer["total_draft_tokens"] for answer in answers) > 0


def test_the_python_example_runs(make_serve: Path, tmp_path: Path) -> None:
    (example,) = blocks("python", "Ask it something")
    script = tmp_path / "example.py"
    script.write_text(example)
    assert len(shell(f".venv/bin/python {script}").split()) > 10


def test_make_serve_says_how_to_ask(make_serve: Path) -> None:
    text = make_serve.read_text()
    assert "curl" in text
    assert "generate_stream" in text


def test_every_file_and_target_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)`?", README):
        assert f"\n{target}:" in makefile, target
    for path in re.findall(r"`([\w./-]+/|[\w-]+\.\w+)`", README) + re.findall(r"\]\(([\w./-]+)\)", README):
        if path not in ("config.pbtxt", "configs/"):
            assert (ROOT / path).exists(), path


def test_the_commands_under_build_an_engine_print_commands_and_a_plan() -> None:
    (commands,) = blocks("sh", "Build an engine of your own")
    printed = re.sub(r" \\\n +", " ", shell(commands))  # a long path breaks the line after the program's name
    assert "trtllm-build --checkpoint_dir" in printed
    assert "docker compose up gpu" in printed
    assert "KV cache holds" in printed

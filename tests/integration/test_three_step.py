"""The three-step ensemble of the pinned image, over the CPU engine: preprocessing, engine, postprocessing.

No client leaves early here: on Triton 2.51 that corrupts the server's heap, which is why the CPU profiles have two
steps.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from python_backend.launcher.server import TritonServer
from tests.integration.conftest import edited_repository, serving
from tests.integration.triton_api import post, stream, text_request, wait_until_idle

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def three_step_server(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = edited_repository(tmp_path_factory.mktemp("three_step"), execution_mode="exact")
    for config in (repository / "ensemble" / "configs").iterdir():
        config.unlink()  # without a profile of its own, the ensemble is config.pbtxt
    with serving(repository, tiny_engine) as server:
        yield server


def prompts() -> list[str]:
    words = ["quick", "fox", "seven", "wizards", "judge", "vow", "lazy"]
    random = np.random.default_rng(3)
    return [" ".join(random.choice(words, 5)) for _ in range(12)]


def test_streams_with_a_request_id_are_the_two_step_answer(
    three_step_server: TritonServer, tiny_server: TritonServer
) -> None:
    """The tiny model emits broken characters all the time; joined pieces must decode as the whole does."""
    texts: dict[str, str] = {}

    def ask(prompt: str) -> None:
        request = text_request(prompt, 80, stream=True)
        texts[prompt] = stream(three_step_server, "ensemble", request, f"id-{prompt}").text

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for prompt in prompts():
        whole = stream(tiny_server, "ensemble", text_request(prompt, 80)).text
        # A stream that breaks off inside a character cannot tell its last bytes: nobody says when it ends.
        assert texts[prompt] in (whole, whole.removesuffix("\ufffd"))
    wait_until_idle(three_step_server)


def test_whole_answers_need_no_request_id(three_step_server: TritonServer, tiny_server: TritonServer) -> None:
    for prompt in prompts():
        body = {"text_input": prompt, "max_tokens": 40}
        ours = post(three_step_server, "ensemble/generate", body).json()
        assert ours["text_output"] == post(tiny_server, "ensemble/generate", body).json()["text_output"]


def test_errors_reach_the_client(three_step_server: TritonServer) -> None:
    response = post(three_step_server, "ensemble/generate", {"text_input": "fox", "max_tokens": 0})
    assert response.status_code == 400
    assert "ask for at least 1" in response.json()["error"]

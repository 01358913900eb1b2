"""The front doors over stand-ins, what their prompts make the engines write, and how they are asked."""

from __future__ import annotations

from typing import Any

from python_backend.launcher.server import TritonServer
from tests.integration.triton_api import Answer, stream, text_request

SCRIPTS = {
    "tale": "Es war einmal: naïve café, 汉字かな交じり文, 🙂👩‍👩‍👧 and seven wizards. The quick fox, my vow.",
    "copy": "My quartz vow: the quick brown fox jumps over the lazy dog, and 7 wizards judge it (quietly).",
    "long": "one two three four five six seven eight nine ten " * 200,
}
PROMPTS = {
    "tale": "tale please<|im_start|>",
    "copy": f"copy this: {SCRIPTS['copy']}<|im_start|>",
    "long": "long please<|im_start|>",
}
PLAIN, NGRAM, DRAFT = "bls_plain", "bls_ngram", "tensorrt_llm_bls"
DOORS = [PLAIN, NGRAM, DRAFT]
ENGINE_OF = {PLAIN: "quick", NGRAM: "tensorrt_llm", DRAFT: "tensorrt_llm"}
DRAFTER_OF = {NGRAM: "ngram", DRAFT: "draft_model"}
DRAFTED = {"max_draft_len": "6", "num_draft_tokens": "6"}


def ask(server: TritonServer, model: str, name: str, max_tokens: int = 400, **extra: Any) -> Answer:
    return stream(server, model, text_request(PROMPTS[name], max_tokens, **extra), timeout_s=40)


def ask_until_drafted(server: TritonServer, model: str, name: str, max_tokens: int = 400, **extra: Any) -> Answer:
    """An answer to which drafts have contributed. A busy machine may have no use for them, but not for long."""
    for _ in range(20):
        answer = ask(server, model, name, max_tokens, return_perf_metrics=True, **extra)
        assert answer.error is None, answer.error
        if answer.responses[-1]["total_accepted_draft_tokens"].item() > 0:
            return answer
    raise AssertionError(f"{model} never drafts")

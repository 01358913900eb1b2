"""The storm must notice what it is there to notice: each fault that a server can have is played by a faulty one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from perf.prompts import PromptSource
from perf.storm import gauges
from perf.storm.door import DOORS, Inputs
from perf.storm.storm import Limits, Outcome, Storm, Target
from perf.storm.transport import StreamFailed, Transport

IDLE = gauges.Load(active_requests=0, used_blocks=0)
LIMITS = Limits(wave_s=0.5, stream_timeout_s=0.5, drain_timeout_s=0.2)
Responses = list[dict[str, Any]]


@dataclass
class Server:
    """Answers each prompt with its own tokens, one a response; ``fault`` spoils the answers after the first 20."""

    fault: Callable[[Responses], Responses] = lambda responses: responses
    load: gauges.Load = IDLE
    lives_for_streams: int = 1_000_000
    streams: int = field(default=0)

    def answer(self, inputs: Inputs) -> Responses:
        self.streams += 1
        prompt, count = inputs["input_ids"], inputs["request_output_len"]
        assert isinstance(prompt, list)
        assert isinstance(count, int)
        tokens = [(7 * sum(prompt) + 13 * n) % 1000 for n in range(count)]
        responses: Responses = [{"output_ids": token, "num_output_tokens": 1} for token in tokens]
        return self.fault(responses) if self.streams > 20 else responses

    def target(self) -> Target:
        return Target(
            connect={"fake": lambda: FakeTransport(self)},
            engine_load=lambda: self.load,
            is_alive=lambda: self.streams < self.lives_for_streams,
        )


class FakeTransport(Transport):
    """A stream of a Server, in memory."""

    name = "fake"
    farewells = ("vanish",)

    def __init__(self, server: Server) -> None:
        self._server = server

    async def send(self, model: str, inputs: Inputs) -> None:
        self._responses = self._server.answer(inputs)

    async def responses(self) -> AsyncIterator[Mapping[str, Any]]:
        for response in self._responses:
            await asyncio.sleep(0)
            if "error" in response:
                raise StreamFailed(response["error"])
            if "hang" in response:
                await asyncio.sleep(3600)
            yield response

    async def leave(self, farewell: str) -> None:
        assert farewell == "vanish"

    async def close(self) -> None:
        pass


def storm_over(server: Server, seconds: float = 0.5, engine_load: Callable[[], gauges.Load] | None = None) -> Outcome:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    prompts = PromptSource(tokenizer, 4, 40, seed=2)
    target = replace(server.target(), engine_load=engine_load) if engine_load else server.target()
    storm = Storm(target, DOORS["tensorrt_llm"], prompts, seed=2, limits=LIMITS)
    return asyncio.run(storm.run(seconds, streams=8))


def test_a_good_server_passes() -> None:
    outcome = storm_over(Server())
    assert not outcome.failures
    assert outcome.streams["fake", "complete"] > 10
    assert outcome.streams["fake", "left"] > 10
    assert len(outcome.drains_s) == 1


def test_every_wave_is_followed_by_a_check() -> None:
    assert len(storm_over(Server(), seconds=1.0).drains_s) == 2


def swap(responses: Responses) -> Responses:
    return [responses[1], responses[0], *responses[2:]]


FAULTS: dict[str, Callable[[Responses], Responses]] = {
    "tokens out of order": swap,
    "a token lost": lambda responses: responses[:2] + responses[3:],
    "a token doubled": lambda responses: responses[:2] + responses[1:],
    "the last token lost": lambda responses: responses[:-1],
    "the tokens of another request": lambda responses: [{**r, "output_ids": r["output_ids"] + 1} for r in responses],
    "an error on the way": lambda responses: [*responses[:3], {"error": "heap is gone"}],
    "no end": lambda responses: [*responses[:3], {"hang": True}],
    "no count": lambda responses: [{"output_ids": r["output_ids"]} for r in responses],
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_faulty_stream_is_noticed(fault: Callable[[Responses], Responses]) -> None:
    outcome = storm_over(Server(fault))
    assert outcome.failures
    assert outcome.streams["fake", "failed"] > 0


def test_blocks_that_stay_used_are_noticed() -> None:
    outcome = storm_over(Server(load=gauges.Load(active_requests=0, used_blocks=3)))
    assert any("3 blocks of the KV cache are used" in failure for failure in outcome.failures)


def test_a_request_that_stays_active_is_noticed() -> None:
    outcome = storm_over(Server(load=gauges.Load(active_requests=2, used_blocks=0)))
    assert any("2 requests are active" in failure for failure in outcome.failures)


def test_a_server_without_metrics_is_noticed() -> None:
    def refuse() -> gauges.Load:
        raise ConnectionRefusedError("nobody listens")

    outcome = storm_over(Server(), engine_load=refuse)
    assert "/metrics does not answer: nobody listens" in outcome.failures


def test_a_dead_server_is_noticed() -> None:
    outcome = storm_over(Server(lives_for_streams=40))
    assert "the server process ended" in outcome.failures


def test_a_storm_in_which_nothing_happened_proves_nothing() -> None:
    class Silent(Storm):
        async def _wave(self, seconds: float, streams: int) -> None:
            pass

    tokenizer = Tokenizer(WordLevel({"[UNK]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    storm = Silent(Server().target(), DOORS["tensorrt_llm"], PromptSource(tokenizer, 4, 40, 2), 2, LIMITS)
    outcome = asyncio.run(storm.run(0.5, streams=8))
    assert any("no fake stream was left" in failure for failure in outcome.failures)


def test_gauges_are_summed_over_models() -> None:
    exposition = """\
# TYPE nv_trt_llm_request_metrics gauge
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 2.000000
nv_trt_llm_request_metrics{model="tensorrt_llm_draft",request_type="active",version="1"} 1.000000
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 64.000000
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="tensorrt_llm",version="1"} 5.000000
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="free",model="tensorrt_llm",version="1"} 507.000000
"""
    assert gauges.parse(exposition) == gauges.Load(active_requests=3, used_blocks=5)


def test_a_server_without_the_gauges_is_not_taken_for_idle() -> None:
    with pytest.raises(ValueError, match="nv_trt_llm_request_metrics"):
        gauges.parse("nv_inference_count 3\n")

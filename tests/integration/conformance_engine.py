"""`tensorrt_llm`: a case for each of its inputs, and its effect, next to the reference model where there is one.

``SETTINGS`` is the table of inputs that a single request shows the effect of. The front doors are asked with the same
table, and must give what the engine gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from python_backend.contract import TENSORRT_LLM, DataType
from tests.integration.conformance import LENGTH, Bench
from tests.integration.triton_api import Answer
from tests.tiny_llama import VOCAB_SIZE

Effect = Callable[[Bench, Answer], None]

HOT: dict[str, Any] = {"temperature": 1.5, "runtime_top_k": 50, "seed": 7}
NUCLEUS: dict[str, Any] = {"runtime_top_p": 0.9, "temperature": 2.0, "seed": 7}
COLD: dict[str, Any] = {"runtime_top_p_decay": 1e-6}  # after the first token the most likely one alone is left


@dataclass(frozen=True, slots=True)
class Setting:
    """An input, what is sent with it (itself included), and what that does to the answer."""

    input: str
    request: dict[str, Any] | Callable[[Bench], dict[str, Any]]
    effect: Effect
    with_matrix: bool = False  # of another input

    @property
    def in_json(self) -> bool:
        """JSON knows no FP16, and Triton's /generate no matrices."""
        tensor = TENSORRT_LLM.input(self.input)
        return tensor.dtype is not DataType.FP16 and len(tensor.dims) == 1 and not self.with_matrix

    def inputs(self, bench: Bench) -> dict[str, Any]:
        return self.request(bench) if callable(self.request) else self.request


def unchanged(bench: Bench, answer: Answer) -> None:
    assert (answer.error, answer.ids) == (None, bench.plain.ids)


def not_available(name: str, request: Any, feature: str, shown: str = "") -> Setting:
    message = (
        f"{name}{shown} is not available on the CPU engine, which has no {feature}. "
        f"Leave {name} out, or serve a TensorRT-LLM engine."
    )

    def refused(bench: Bench, answer: Answer) -> None:
        assert (answer.error, answer.responses) == (message, [])

    return Setting(name, {name: request}, refused)


def as_if(request: dict[str, Any]) -> Effect:
    """The answer is that to another request, and not the plain one."""

    def effect(bench: Bench, answer: Answer) -> None:
        assert answer.ids == bench.engine.ask(**request).ids
        assert answer.ids != bench.plain.ids

    return effect


def cold(bench: Bench, answer: Answer) -> None:
    unchanged(bench, answer)
    assert bench.engine.ask(**HOT).ids != bench.plain.ids


def seeded(bench: Bench, answer: Answer) -> None:
    assert answer.ids == bench.engine.ask(**(HOT | {"seed": 8})).ids
    assert answer.ids != bench.engine.ask(**HOT).ids
    unseeded = {name: value for name, value in HOT.items() if name != "seed"}
    assert bench.engine.ask(**unseeded).ids != bench.engine.ask(**unseeded).ids


def decays(bench: Bench, answer: Answer) -> None:
    """Only the first token is drawn."""
    drawn = bench.engine.ask(**NUCLEUS).ids
    assert answer.ids[0] == drawn[0]
    assert answer.ids[1:] == bench.logits(answer.ids).argmax(-1).tolist()[1:LENGTH] != drawn[1:]


def top_k_of_two(bench: Bench, answer: Answer) -> None:
    ranks = (-bench.logits(answer.ids)).argsort(-1)[:LENGTH, :2]
    assert all(token in best for token, best in zip(answer.ids, ranks.tolist(), strict=True))
    assert answer.ids != bench.plain.ids


def in_the_nucleus(bench: Bench, answer: Answer) -> None:
    for token, logits in zip(answer.ids, bench.logits(answer.ids), strict=False):
        shares = np.exp((logits - logits.max()) / NUCLEUS["temperature"])
        shares /= shares.sum()
        assert shares[shares > shares[token]].sum() < NUCLEUS["runtime_top_p"] + 1e-4
    assert answer.ids != bench.plain.ids


def resetting(bench: Bench) -> dict[str, Any]:
    return NUCLEUS | COLD | {"runtime_top_p_reset_ids": bench.engine.ask(**NUCLEUS).ids[0]}


def decays_and_starts_again(bench: Bench, answer: Answer) -> None:
    drawn = bench.engine.ask(**NUCLEUS).ids
    assert answer.ids[:2] == drawn[:2]  # the second is drawn anew, since the first one resets
    assert bench.engine.ask(**NUCLEUS, **COLD).ids[:2] != drawn[:2]


def penalised(repetition: float = 1.0, presence: float = 0.0, frequency: float = 0.0) -> Effect:
    """Greedy, by the book: over prompt and output, token by token."""

    def effect(bench: Bench, answer: Answer) -> None:
        expected: list[int] = []
        for _ in range(LENGTH):
            seen = np.bincount(bench.prompt + expected, minlength=VOCAB_SIZE)
            logits = bench.logits(expected)[-1].astype(np.float64)
            logits = np.where(seen > 0, np.where(logits > 0, logits / repetition, logits * repetition), logits)
            expected.append(int((logits - presence * (seen > 0) - frequency * seen).argmax()))
        assert answer.ids == expected != bench.plain.ids

    return effect


def several(bench: Bench, answer: Answer) -> None:
    texts = {int(response["sequence_index"].item()): response["text_output"].item() for response in answer.responses}
    alone = [bench.engine.ask(**(HOT | {"seed": HOT["seed"] + i})).text.encode() for i in range(3)]
    assert [texts[i] for i in range(3)] == alone
    assert len(set(alone)) == 3


def ends_at_three(bench: Bench, answer: Answer) -> None:
    assert (answer.ids, answer.finish_reason) == (bench.plain.ids[:3], "stop")


def at_least_twenty(bench: Bench, answer: Answer) -> None:
    """Without its end, which the plain answer has in third place."""
    assert len(answer.ids) >= 20
    assert bench.plain.ids[2] not in answer.ids[:20]


def words(kind: str, word: list[int]) -> dict[str, Any]:
    return {f"{kind}_words_list": [[*word, 5], [len(word), len(word) + 1, *[-1] * (len(word) - 1)]]}


def stops_at_the_word(bench: Bench, answer: Answer) -> None:
    word = bench.tokenizer.decode(bench.plain.ids[8:11], skip_special_tokens=True)
    assert (answer.responses[-1]["stop_word"].item().decode(), answer.finish_reason) == (word, "stop")
    assert answer.text == bench.plain.text[: bench.plain.text.index(word)]


def avoids_the_word(bench: Bench, answer: Answer) -> None:
    first, second = bench.plain.ids[1:3]
    assert answer.ids[:2] == bench.plain.ids[:2]
    assert (first, second) not in list(zip(answer.ids, answer.ids[1:], strict=False))


def without_the_first(bench: Bench) -> dict[str, Any]:
    bias = np.zeros(VOCAB_SIZE, np.float32)
    bias[bench.plain.ids[0]] = -np.inf
    return {"embedding_bias": bias[None]}


def second_best(bench: Bench, answer: Answer) -> None:
    assert answer.ids[0] == bench.logits([])[-1].argsort()[-2]
    assert bench.plain.ids[0] not in answer.ids


def with_the_prompt(bench: Bench, answer: Answer) -> None:
    assert answer.ids == bench.prompt + bench.plain.ids


def in_pieces(bench: Bench, answer: Answer) -> None:
    assert answer.ids == bench.plain.ids
    assert len(answer.responses) > 1


def has(*outputs: str) -> Effect:
    """The outputs are there, as they are in no plain answer; and the tokens are the same."""

    def effect(bench: Bench, answer: Answer) -> None:
        unchanged(bench, answer)
        assert set(outputs) <= answer.responses[-1].keys()
        assert not set(outputs) & bench.plain.responses[-1].keys()

    return effect


def a_date(bench: Bench, answer: Answer) -> None:
    assert answer.finish_reason == "stop"
    year, month = answer.text.split("-")
    assert (len(year), len(month)) == (4, 2)
    assert (year + month).isdigit()


def draft(bench: Bench, *, wrong: int = 0, **others: Any) -> dict[str, Any]:
    """Of the next tokens three that the plain answer has, and some that it has not."""
    return {"draft_input_ids": [*bench.plain.ids[:3], *[5] * wrong], "return_perf_metrics": True} | others


def draft_logits(guess: float) -> Any:
    """Of three draft tokens drawn by a model to which all are alike, but for the guesses."""

    def of(bench: Bench) -> Any:
        logits = np.zeros((1, 3, VOCAB_SIZE), np.float32)
        logits[0, range(3), bench.plain.ids[:3]] = guess
        return logits

    return of


IMPROBABLE, CERTAIN = draft_logits(-50.0), draft_logits(50.0)


def accepted(tokens: int, of: int) -> Effect:
    """So many of the draft, and one more token, of the target's own; then the request ends."""

    def effect(bench: Bench, answer: Answer) -> None:
        assert answer.ids[:tokens] == bench.plain.ids[:tokens]
        assert len(answer.ids) == tokens + 1
        figures = [answer.responses[-1][name].item() for name in PERFORMANCE[-3:]]
        assert figures == [pytest.approx(tokens / of), tokens, of]

    return effect


def verified(bench: Bench, answer: Answer) -> None:
    accepted(3, of=5)(bench, answer)
    assert answer.ids == bench.plain.ids[:4]


def drafts_for_itself(bench: Bench, answer: Answer) -> None:
    """How much is timed, and so nothing to rely on; the tokens are."""
    unchanged(bench, answer)
    bias = np.zeros((1, VOCAB_SIZE), np.float32)
    bias[0, 7] = 1e3
    monotonous: dict[str, Any] = {"embedding_bias": bias, "return_perf_metrics": True, "length": 400}
    answer = bench.engine.ask(num_draft_tokens=4, **monotonous)
    assert answer.ids == [7] * 400
    rate, taken, proposed = (answer.responses[-1][name].item() for name in PERFORMANCE[-3:])
    assert (rate, taken) == (1.0, proposed) if proposed else (rate, taken) == (0.0, 0)


PERFORMANCE = (
    "kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks", "arrival_time_ns",
    "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns", "acceptance_rate",
    "total_accepted_draft_tokens", "total_draft_tokens",
)  # fmt: skip
GUIDE = {"guided_decoding_guide_type": "regex", "guided_decoding_guide": "[0-9]{4}-[0-9]{2}"}

SETTINGS = (
    Setting("num_return_sequences", HOT | {"num_return_sequences": 3}, several),
    Setting("temperature", HOT | {"temperature": 1e-6}, cold),
    Setting("runtime_top_k", HOT | {"temperature": 3.0, "runtime_top_k": 2}, top_k_of_two),
    Setting("runtime_top_p", NUCLEUS, in_the_nucleus),
    Setting("runtime_top_p_decay", NUCLEUS | COLD, decays),
    Setting("runtime_top_p_min", NUCLEUS | COLD | {"runtime_top_p_min": 0.9}, as_if(NUCLEUS)),
    Setting("runtime_top_p_reset_ids", resetting, decays_and_starts_again),
    Setting("seed", HOT | {"seed": 8}, seeded),
    Setting("random_seed", {"temperature": 1.5, "runtime_top_k": 50, "random_seed": 7}, as_if(HOT)),
    Setting("repetition_penalty", {"repetition_penalty": 4.0}, penalised(repetition=4.0)),
    Setting("presence_penalty", {"presence_penalty": 6.0}, penalised(presence=6.0)),
    Setting("frequency_penalty", {"frequency_penalty": 3.0}, penalised(frequency=3.0)),
    Setting("end_id", lambda bench: {"end_id": bench.plain.ids[2]}, ends_at_three),
    Setting("min_tokens", lambda bench: {"min_tokens": 20, "end_id": bench.plain.ids[2]}, at_least_twenty),
    Setting("min_length", lambda bench: {"min_length": 20, "end_id": bench.plain.ids[2]}, at_least_twenty),
    Setting("stop_words_list", lambda bench: words("stop", bench.plain.ids[8:11]), stops_at_the_word),
    Setting("bad_words_list", lambda bench: words("bad", bench.plain.ids[1:3]), avoids_the_word),
    Setting("embedding_bias", without_the_first, second_best),
    Setting("exclude_input_in_output", {"exclude_input_in_output": False}, with_the_prompt),
    Setting("return_log_probs", {"return_log_probs": True}, has("cum_log_probs", "output_log_probs")),
    Setting("return_context_logits", {"return_context_logits": True}, has("context_logits")),
    Setting("return_generation_logits", {"return_generation_logits": True}, has("generation_logits")),
    Setting("return_perf_metrics", {"return_perf_metrics": True}, has(*PERFORMANCE)),
    Setting("return_num_input_tokens", {"return_num_input_tokens": True}, has("num_input_tokens")),
    Setting("return_num_output_tokens", {"return_num_output_tokens": True}, has("num_output_tokens")),
    Setting("streaming", {"streaming": True}, in_pieces),
    Setting("guided_decoding_guide_type", GUIDE, a_date),
    Setting("guided_decoding_guide", GUIDE, a_date),
    Setting("draft_input_ids", lambda bench: draft(bench, wrong=2), verified),
    Setting("draft_logits", lambda bench: draft(bench, draft_logits=IMPROBABLE(bench), **HOT), accepted(3, of=3)),
    Setting(
        "draft_acceptance_threshold",
        lambda bench: draft(bench, draft_logits=CERTAIN(bench), draft_acceptance_threshold=0.0, **HOT),
        accepted(3, of=3),
        with_matrix=True,
    ),
    Setting(
        "draft_acceptance_threshold",
        lambda bench: draft(bench, draft_logits=CERTAIN(bench), draft_acceptance_threshold=1.0, **HOT),
        accepted(0, of=3),
        with_matrix=True,
    ),
    Setting("num_draft_tokens", {"num_draft_tokens": 4}, drafts_for_itself),
    # Without effect with one beam, a decoder only, no padding and no virtual tokens.
    Setting("beam_width", {"beam_width": 1}, unchanged),
    Setting("len_penalty", {"len_penalty": 2.0}, unchanged),
    Setting("early_stopping", {"early_stopping": True}, unchanged),
    Setting("beam_search_diversity_rate", {"beam_search_diversity_rate": 0.5}, unchanged),
    Setting("pad_id", {"pad_id": 9}, unchanged),
    Setting("decoder_input_ids", {"decoder_input_ids": [5, 6]}, unchanged),
    Setting("decoder_input_lengths", {"decoder_input_lengths": 2}, unchanged),
    Setting("prompt_table_extra_ids", {"prompt_table_extra_ids": [1, 2]}, unchanged),
    # What the CPU engine does not offer.
    not_available("beam_width", 2, "beam search", " = 2"),
    not_available("encoder_input_features", [[0.5, 1.0]], "encoder"),
    not_available("encoder_output_lengths", 3, "encoder", " = 3"),
    not_available("cross_attention_mask", [[True, False]], "encoder"),
    not_available("skip_cross_attn_blocks", [True], "encoder"),
    not_available("prompt_embedding_table", [[0.5, 1.0]], "virtual tokens"),
    not_available("prompt_vocab_size", 8, "virtual tokens", " = 8"),
    not_available("mrope_rotary_cos_sin", [0.5, 1.0], "images"),
    not_available("mrope_position_deltas", [3], "images", " = 3"),
    not_available("lora_task_id", 4, "LoRA adapters", " = 4"),
    not_available("lora_weights", [[0.5, 1.0]], "LoRA adapters"),
    not_available("lora_config", [[0, 0, 8, 0]], "LoRA adapters"),
    not_available("context_phase_params", [1, 2, 3], "disaggregated serving"),
    not_available("lookahead_window_size", [4], "lookahead decoding", " = 4"),
    not_available("lookahead_ngram_size", [3], "lookahead decoding", " = 3"),
    not_available("lookahead_verification_set_size", [2], "lookahead decoding", " = 2"),
)

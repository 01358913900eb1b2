"""What a client is told does not depend on how the sender's takes cut it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.contract import TENSORRT_LLM
from python_backend.engine.sampling import TokenDetails
from python_backend.scheduling.sequence import FinishReason, Sequence
from python_backend.text.detokenizer import Detokenizer
from python_backend.text.stop_criteria import StopCriteria, StoppingDetokenizer
from python_backend.text.tokenizer import Tokenizer
from python_backend.triton.answer import Answer, Arrays, Pending
from python_backend.triton.generation_request import Limits, parse
from tests import tiny_llama

TOKENIZER = Tokenizer(tiny_llama.tokenizer(), {"eos_token": "<|im_end|>"})
LIMITS = Limits(vocab_size=320, tokenizer_vocab_size=320, max_seq_len=99, max_return_sequences=1, streaming=True)
VOCAB_SIZE = 4  # of the logits that are made up here
TEXT = "the quick brown fox jumps over the lazy dog"
TOKENS = TOKENIZER.encode(TEXT, add_special_tokens=False).tolist()
PROMPT = TOKENIZER.encode("vow: ", add_special_tokens=False).tolist()


def answer_to(stop_words: tuple[str, ...] = (), **asked: Any) -> Answer:
    tensors: dict[str, Any] = {
        "input_ids": np.array([PROMPT], np.int32),
        "input_lengths": np.array([len(PROMPT)], np.int32),
        "request_output_len": np.array([60], np.int32),
    }
    tensors |= {name: np.array([value]) for name, value in asked.items()}
    (request,) = parse(tensors, LIMITS, exclude_input_in_output=True)
    stopping = StoppingDetokenizer(TOKENIZER, StopCriteria(stop_words)) if stop_words else None
    return Answer(
        request=request,
        sequence=Sequence(id="", prompt=request.prompt, max_new_tokens=60),
        outputs=[tensor.name for tensor in TENSORRT_LLM.outputs],
        detokenizer=stopping or Detokenizer(TOKENIZER),
        batch_index=None,
        sequence_index=None,
    )


def details(first: int, count: int) -> TokenDetails:
    positions = np.arange(first, first + count, dtype=np.float32)
    return TokenDetails(
        log_probs=-positions,
        cum_log_prob=None,
        generation_logits=np.repeat(positions[:, None], VOCAB_SIZE, 1),
        context_logits=np.ones((len(PROMPT), VOCAB_SIZE), np.float32) if first == 0 else None,
    )


def told(answer: Answer, cuts: list[int], *, with_details: bool = False) -> list[Arrays]:
    """All responses, with the tokens handed over in pieces; a sender asks no more once the answer is finished."""
    responses = []
    borders = sorted({0, *(cut for cut in cuts if cut < len(TOKENS)), len(TOKENS)})
    for begin, end in pairwise(borders):
        finish = FinishReason.LENGTH if end == len(TOKENS) else None
        brought = [details(at, 1) for at in range(begin, end)] if with_details else []
        answer.add(Pending(TOKENS[begin:end], brought, finish, 1.0, 2.0))
        if answer.is_due:
            responses.append(answer.arrays())
        if answer.finish is not None:
            break
    return responses


def text_of(responses: list[Arrays]) -> str:
    return b"".join(response["text_output"].item() for response in responses).decode()


def ids_of(responses: list[Arrays]) -> list[int]:
    return [token for response in responses for token in response["output_ids"][0, 0].tolist()]


CUTS = st.lists(st.integers(1, len(TOKENS) - 1))


@given(CUTS, st.booleans())
def test_tokens_and_text_are_whole(cuts: list[int], streaming: bool) -> None:
    responses = told(answer_to(streaming=streaming), cuts)
    assert (ids_of(responses), text_of(responses)) == (TOKENS, TEXT)
    assert responses[-1]["finish_reason"].item() == b"length"
    assert len(responses) == 1 or streaming
    assert not any("stop_word" in response for response in responses)


@given(CUTS, st.booleans(), st.integers(0, len(TEXT) - 5), st.integers(1, 5))
def test_a_stop_word_cuts_text_tokens_log_probs_and_logits(
    cuts: list[int], streaming: bool, at: int, length: int
) -> None:
    word = TEXT[at : at + length]
    asked = {"streaming": streaming, "return_num_output_tokens": True, "return_log_probs": True}
    responses = told(answer_to((word,), **asked), cuts, with_details=True)
    end = TEXT.index(word)
    assert text_of(responses) == TEXT[:end]
    assert (responses[-1]["finish_reason"].item(), responses[-1]["stop_word"].item()) == (b"stop", word.encode())
    ids = ids_of(responses)
    assert ids == TOKENS[: len(ids)]
    assert word in TOKENIZER.decode(ids, skip_special_tokens=True)
    assert word not in TOKENIZER.decode(ids[:-1], skip_special_tokens=True)
    assert sum(response["num_output_tokens"].item() for response in responses) == len(ids)
    log_probs = np.concatenate([response["output_log_probs"][0, 0] for response in responses])
    assert log_probs.tolist() == [-position for position in range(len(ids))]
    assert responses[-1]["cum_log_probs"].item() == log_probs.sum()
    logits = np.concatenate([response["generation_logits"][0, 0] for response in responses])
    assert logits.shape == (len(ids), VOCAB_SIZE)
    assert [response["context_logits"].shape for response in responses if "context_logits" in response] == [
        (1, len(PROMPT), VOCAB_SIZE)
    ]


@pytest.mark.parametrize("stop_words", [(), ("fox",)])
def test_the_prompt_stands_before_the_answer_but_stops_and_counts_nothing(stop_words: tuple[str, ...]) -> None:
    asked = {"exclude_input_in_output": False, "return_num_output_tokens": True}
    (response,) = told(answer_to((*stop_words, "vow") if stop_words else (), **asked), [3, 9])
    shown = TEXT[: TEXT.index("fox")] if stop_words else TEXT
    assert response["text_output"].item().decode() == "vow: " + shown
    ids = response["output_ids"][0, 0].tolist()
    assert ids[: len(PROMPT)] == PROMPT
    assert response["sequence_length"].item() == len(ids)
    assert response["num_output_tokens"].item() == len(ids) - len(PROMPT)


def test_an_answer_that_failed_shows_no_stop_word() -> None:
    answer = answer_to(("fox",))
    answer.add(Pending(TOKENS, [], FinishReason.ERROR, None, 0.0))
    assert (answer.finish, answer.stop_word) == (FinishReason.ERROR, None)

"""Text by the target, batched and cached, against the model run on whole texts."""

from __future__ import annotations

import pytest
import torch

from build_engines.checkpoint.config import Architecture
from build_engines.draft.generation import Generator
from build_engines.quantization.transformers_model import transformers_model
from tests import tiny_models
from tests.unit.build_engines.draft import tiny_drafts

PROMPTS = [[5, 6, 7], list(range(40, 60)), [300], [9, 9]]
END_ID, MAX_TOKENS = 2, 40


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_states_and_greedy_tokens_are_those_of_the_whole_text(architecture: Architecture) -> None:
    target = tiny_drafts.target(tiny_models.config(architecture, dtype="float32"))
    model = transformers_model(target.config, target.tensor)
    texts = Generator(model, max_tokens=MAX_TOKENS, end_id=END_ID)(
        PROMPTS, [0.0, 1.0, 0.0, 0.7], torch.Generator().manual_seed(3)
    )
    model.config._attn_implementation = "sdpa"
    for text, prompt, greedy in zip(texts, PROMPTS, (True, False, True, False), strict=True):
        ids = text.token_ids.tolist()
        assert ids[: text.prompt_tokens] == prompt
        assert len(ids) < MAX_TOKENS + len(prompt)
        with torch.no_grad():
            states = model.model(torch.tensor([ids])).last_hidden_state[0, len(prompt) - 1 : -1]
            logits = model.lm_head(states)
        torch.testing.assert_close(text.states.float(), states, rtol=1e-3, atol=1e-3)
        if greedy:
            assert ids[len(prompt) :] == logits.argmax(dim=-1).tolist()


def test_a_text_ends_at_the_end_token_and_the_others_go_on() -> None:
    """As texts end, their rows leave the batch: those that stay must not notice."""
    target = tiny_drafts.target()
    model = transformers_model(target.config, target.tensor)
    free = Generator(model, max_tokens=MAX_TOKENS, end_id=-1)
    alone = [free([prompt], [0.0], torch.Generator())[0].token_ids.tolist() for prompt in PROMPTS]
    end_id = alone[0][len(PROMPTS[0]) + 4]
    together = Generator(model, max_tokens=MAX_TOKENS, end_id=end_id)(PROMPTS, [0.0] * 4, torch.Generator())
    longest = max(map(len, PROMPTS))
    for prompt, text, whole in zip(PROMPTS, together, alone, strict=True):
        written = whole[len(prompt) : len(prompt) + MAX_TOKENS - longest]
        end = written.index(end_id) + 1 if end_id in written else len(written)
        assert text.token_ids[len(prompt) :].tolist()[:end] == written[:end]
        assert len(text.token_ids) <= len(prompt) + len(written) + 1


def test_expected_counts_are_the_sum_of_the_distributions() -> None:
    target = tiny_drafts.target()
    model = transformers_model(target.config, target.tensor)
    generator = Generator(model, max_tokens=MAX_TOKENS, end_id=END_ID)
    texts = generator(PROMPTS, [1.0] * 4, torch.Generator().manual_seed(1))
    head = model.get_output_embeddings().weight
    expected = sum((text.states.float() @ head.T).softmax(dim=-1).sum(dim=0) for text in texts)
    torch.testing.assert_close(generator.expected_counts, expected.double(), rtol=1e-2, atol=1e-2)

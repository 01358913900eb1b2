"""How much of a draft's proposals its target accepts, on text that the target wrote and the draft has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.nn import functional

from build_engines.draft.generation import Text
from build_engines.draft.student import Student
from build_engines.draft.target_texts import TargetTexts
from build_engines.draft.weights_file import Acceptance

DRAFT_LENGTHS = (1, 2, 3, 4)


@torch.inference_mode()
def measure_acceptance(student: Student, held_out: TargetTexts, *, batch_size: int = 8) -> Acceptance:
    """``student`` against the text and the distributions of its target."""
    matches: list[torch.Tensor] = []
    covered, overlaps = [], []
    pairs = list(zip(held_out.texts, held_out.temperatures, strict=True))
    greedy = [text for text, temperature in pairs if temperature == 0]
    sampled = [text for text, temperature in pairs if temperature == 1]
    for batch in _batches(greedy, batch_size):
        proposed = student.vocabulary[functional.linear(student.states(batch), student.head).argmax(dim=-1)]
        said = torch.cat([text.token_ids[text.prompt_tokens :] for text in batch])
        covered.append(torch.isin(said, student.vocabulary))
        matches += torch.split(proposed == said, [len(text.states) for text in batch])
    for batch in _batches(sampled, batch_size):
        found = functional.linear(student.states(batch), student.head).softmax(dim=-1)
        expected = functional.linear(torch.cat([text.states for text in batch]).float(), student.full_head)
        overlaps.append(torch.minimum(found, expected.softmax(dim=-1)[:, student.vocabulary.long()]).sum(dim=-1))
    everywhere, overlap = torch.cat(matches).float(), torch.cat(overlaps) if overlaps else torch.zeros(0)
    return Acceptance(
        greedy=round(everywhere.mean().item(), 4),
        greedy_tokens=len(everywhere),
        accepted_tokens={length: round(accepted_tokens(matches, length), 3) for length in DRAFT_LENGTHS},
        sampled=round(overlap.mean().item(), 4) if overlaps else None,
        sampled_tokens=len(overlap),
        coverage=round(torch.cat(covered).float().mean().item(), 4),
    )


def accepted_tokens(texts: Iterable[torch.Tensor], draft_length: int) -> float:
    """Accepted tokens a round; ``texts`` hold for each token whether it would be proposed rightly.

    A round accepts drafts up to the first wrong one, and the target itself adds one token.
    """
    accepted = rounds = 0
    for right in texts:
        at = 0
        while at < len(right):
            drafts = right[at : at + draft_length].tolist()
            run = [*drafts, False].index(False)
            accepted, rounds, at = accepted + run, rounds + 1, at + run + 1
    return accepted / rounds


def _batches(texts: Sequence[Text], size: int) -> Iterable[Sequence[Text]]:
    return (texts[begin : begin + size] for begin in range(0, len(texts), size))

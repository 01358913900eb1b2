"""What a checkpoint predicts against what its source predicts, on text.

All tokens go through one layer of both models before the next is read. So memory holds a layer in float32 and the
hidden states of all tokens twice, and at the end both lm_heads and the logits of one sequence, however many layers
the models have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from build_engines.progress import Report, silent
from build_engines.quantization.token_pieces import TokenIds
from build_engines.verification.decoder import Decoder
from build_engines.verification.same_model import Model, check_same_model, unquantized
from python_backend.errors import SetupError


@dataclass(frozen=True, slots=True)
class TextComparison:
    """Means over all predicted tokens.

    ``kl_divergence`` is KL(source || checkpoint) in nats; ``top1_agreement`` is how often both find the same token most
    likely; ``simulated`` says whether activations and KV cache were rounded as an engine does, or only weights.
    """

    predicted_tokens: int
    source_perplexity: float
    perplexity: float
    kl_divergence: float
    top1_agreement: float
    simulated: bool

    @property
    def perplexity_ratio(self) -> float:
        """The checkpoint's perplexity over the source's."""
        return self.perplexity / self.source_perplexity


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint to compare with its source; ``simulate`` as in ``Decoder``."""

    checkpoint: Model
    simulate: bool = True


def compare_text(
    source: Model, candidates: Sequence[Candidate], token_ids: TokenIds, *, report: Report = silent
) -> list[TextComparison]:
    """Predict every token of ``token_ids`` [sequences, tokens] from those before it in its sequence.

    The source runs once for all candidates. Raises SetupError when the configs describe different models, a token id
    is not in the vocabulary, or sequences are longer than the model takes.
    """
    for candidate in candidates:
        check_same_model(source.config, candidate.checkpoint.config)
    _check_tokens(token_ids, source.config.vocab_size, source.config.max_position_embeddings)
    decoders = [Decoder(unquantized(source.config), source.tensor)]
    decoders += [Decoder(c.checkpoint.config, c.checkpoint.tensor, simulate=c.simulate) for c in candidates]
    sequences, layers = torch.from_numpy(token_ids), source.config.num_hidden_layers
    with torch.inference_mode():
        hidden = [[decoder.embed(sequence) for sequence in sequences] for decoder in decoders]
        for index in range(layers):
            report(index, layers + 1, f"layer {index}")
            for which, decoder in enumerate(decoders):
                layer = decoder.layer(index)
                hidden[which] = [layer(states) for states in hidden[which]]
        report(layers, layers + 1, "lm_head")
        totals = _all_totals(sequences, decoders, hidden)
    predicted = sequences.shape[0] * (sequences.shape[1] - 1)
    found = []
    for candidate, total in zip(candidates, totals, strict=True):
        source_loss, loss, divergence, agreement = (total / predicted).tolist()
        found.append(
            TextComparison(predicted, _exp(source_loss), _exp(loss), divergence, agreement, candidate.simulate)
        )
    return found


def _all_totals(
    sequences: torch.Tensor, decoders: Sequence[Decoder], hidden: Sequence[Sequence[torch.Tensor]]
) -> list[torch.Tensor]:
    """For all decoders but the first, the source's: ``_totals`` over all sequences."""
    source_head, *heads = [decoder.head() for decoder in decoders]
    totals = [torch.zeros(4, dtype=torch.float64) for _ in heads]
    for sequence, source_states, *states in zip(sequences, *hidden, strict=True):
        expected = source_head(source_states)
        for total, head, own_states in zip(totals, heads, states, strict=True):
            total += _totals(sequence, expected, head(own_states))
    return totals


def _totals(sequence: torch.Tensor, expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Sums over one sequence: both losses, the divergence, and how often the likeliest token is the same."""
    expected, found = (logits[:-1].log_softmax(dim=-1) for logits in (expected, found))
    following = sequence[1:, None]
    return torch.stack(
        [
            -expected.gather(1, following).double().sum(),
            -found.gather(1, following).double().sum(),
            (expected.exp() * (expected - found)).sum(dim=-1).double().sum(),
            (expected.argmax(dim=-1) == found.argmax(dim=-1)).double().sum(),
        ]
    )


def _check_tokens(token_ids: TokenIds, vocab_size: int, max_tokens: int) -> None:
    if token_ids.max() >= vocab_size:
        raise SetupError(
            f"the tokenizer gives token id {token_ids.max()}; the model has {vocab_size} tokens. "
            "Put the model's own tokenizer.json beside its config.json."
        )
    if token_ids.shape[1] > max_tokens:
        raise SetupError(
            f"evaluation sequences have {token_ids.shape[1]} tokens; the model takes at most {max_tokens}. "
            f"Set verification.sequence_tokens to {max_tokens}."
        )


def _exp(loss: float) -> float:
    """Infinite, rather than an error, for a model that is broken enough."""
    return math.exp(loss) if loss < 700 else math.nan if math.isnan(loss) else math.inf

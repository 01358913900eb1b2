"""Choosing tokens from logits on the CPU engine: TensorRT-LLM's sampling parameters and rules, row by row.

A row may stand behind draft tokens: it is then chosen as if they had been generated. So the tokens of a draft that are
accepted are those that would have come without it, and with the same seed the whole answer is. Where the draft's logits
are known too, it is accepted more often, and the answer has the same distribution instead (see draft_acceptance.py).

Beam search is not here. The arithmetic would be small; the rest is not: beams share and fork block tables at every
step, with a copy of the last block each time, and a group of them is admitted, paused and finished together. The
scheduler knows sequences whose tokens only ever grow, and whose full blocks may be shared because nobody rewrites them.
It would also compute ``beam_width`` sequences to return one, and could stream nothing before the end.
"""

from python_backend.engine.sampling.draft_acceptance import DraftAcceptance
from python_backend.engine.sampling.parameters import SamplingParameters
from python_backend.engine.sampling.sampler import SampledRow, Sampler
from python_backend.engine.sampling.state import SamplingState, TokenGuide
from python_backend.engine.sampling.step_sampler import StepSampler, TokenDetails

__all__ = [
    "DraftAcceptance",
    "SampledRow",
    "Sampler",
    "SamplingParameters",
    "SamplingState",
    "StepSampler",
    "TokenDetails",
    "TokenGuide",
]

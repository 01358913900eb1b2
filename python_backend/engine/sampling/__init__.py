"""Choosing tokens from logits on the CPU engine: TensorRT-LLM's sampling parameters and rules, row by row.

Beam search is not here. The arithmetic would be small; the rest is not: beams share and fork block tables at every
step, with a copy of the last block each time, and a group of them is admitted, paused and finished together. The
scheduler knows sequences whose tokens only ever grow, and whose full blocks may be shared because nobody rewrites them.
It would also compute ``beam_width`` sequences to return one, and could stream nothing before the end.
"""

from python_backend.engine.sampling.parameters import SamplingParameters
from python_backend.engine.sampling.sampler import SampledRow, Sampler
from python_backend.engine.sampling.state import SamplingState, TokenGuide
from python_backend.engine.sampling.step_sampler import StepSampler, TokenDetails

__all__ = ["SampledRow", "Sampler", "SamplingParameters", "SamplingState", "StepSampler", "TokenDetails", "TokenGuide"]

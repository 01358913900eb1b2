"""Choosing tokens from logits on the CPU engine: TensorRT-LLM's sampling parameters and rules, row by row."""

from python_backend.engine.sampling.parameters import SamplingParameters
from python_backend.engine.sampling.sampler import SampledRow, Sampler
from python_backend.engine.sampling.state import SamplingState
from python_backend.engine.sampling.step_sampler import StepSampler, TokenDetails

__all__ = ["SampledRow", "Sampler", "SamplingParameters", "SamplingState", "StepSampler", "TokenDetails"]

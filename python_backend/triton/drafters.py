"""The drafter inside the CPU engine, as the settings ask for it."""

from __future__ import annotations

from python_backend.engine.executor import Executor
from python_backend.metrics import Recorder
from python_backend.speculative.draft_model import DraftModelProposer
from python_backend.speculative.engine_drafter import EngineDrafter
from python_backend.speculative.ngram import NgramProposer
from python_backend.speculative.proposer import Proposer
from python_backend.speculative.step_cost import StepCost
from python_backend.triton.settings import CpuEngineSettings


def make_drafter(settings: CpuEngineSettings, executor: Executor, recorder: Recorder) -> EngineDrafter | None:
    """None when there is to be none.

    Steps are timed on the executor, which overwrites its KV cache: to be called before anything is prewarmed. Raises
    SetupError when the draft model cannot be loaded, EngineFault when a step cannot be computed.
    """
    if settings.drafter == "none" or settings.max_draft_len == 0:
        return None
    draft_model = _draft_model(settings)
    return EngineDrafter(
        StepCost.measured(executor, settings.max_num_tokens),
        max_num_tokens=settings.max_num_tokens,
        lookup=NgramProposer(),
        draft_model=draft_model,
        recorder=recorder,
    )


def _draft_model(settings: CpuEngineSettings) -> Proposer | None:
    if settings.drafter != "draft_model":
        return None
    assert settings.draft_engine_dir is not None, "the settings are checked when they are read"
    return DraftModelProposer.load(
        settings.draft_engine_dir,
        settings.gpt_model_path,
        max_kv_cache_tokens=settings.max_tokens_in_draft_kv_cache,
        max_num_tokens=settings.max_num_tokens,
        num_threads=settings.num_threads,
    )

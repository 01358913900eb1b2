"""In-flight batching over a paged KV cache: who computes which tokens, in which blocks, in the next step.

Pure bookkeeping: numpy and the standard library only, no clock, no threads, no logging.
"""

from python_backend.scheduling.block_manager import BlockManager, BlockStatistics
from python_backend.scheduling.deadline import timeout_error
from python_backend.scheduling.request_queue import RequestQueue, Urgency
from python_backend.scheduling.retention import BlockRetention, KvRetention, TokenRange
from python_backend.scheduling.scheduler import Scheduler
from python_backend.scheduling.scheduler_config import CapacityPolicy, SchedulerConfig
from python_backend.scheduling.sequence import FinishReason, Sequence, SequenceState
from python_backend.scheduling.step_batch import StepBatch
from python_backend.scheduling.step_plan import Progress, SchedulerGauges, StepEntry, StepPlan

__all__ = [
    "BlockManager",
    "BlockRetention",
    "BlockStatistics",
    "CapacityPolicy",
    "FinishReason",
    "KvRetention",
    "Progress",
    "RequestQueue",
    "Scheduler",
    "SchedulerConfig",
    "SchedulerGauges",
    "Sequence",
    "SequenceState",
    "StepBatch",
    "StepEntry",
    "StepPlan",
    "TokenRange",
    "Urgency",
    "timeout_error",
]

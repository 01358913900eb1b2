"""The loop that keeps one executor busy: admit, schedule, execute, advance, report.

It knows nothing of text or transports. Requests come in from any thread; progress goes out, a step at a time, to the
listener, which must not block: the loop never waits for a client.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from python_backend.engine.drafter import Drafter, DraftStatistics
from python_backend.engine.executor import Executor
from python_backend.engine.sampling.step_sampler import StepSampler, TokenDetails
from python_backend.errors import EngineFault, Overloaded, SlipstreamError
from python_backend.scheduling.block_manager import BlockManager, BlockStatistics
from python_backend.scheduling.scheduler import Scheduler
from python_backend.scheduling.scheduler_config import SchedulerConfig
from python_backend.scheduling.sequence import FinishReason, Sequence, SequenceState
from python_backend.scheduling.step_batch import StepBatch
from python_backend.scheduling.step_plan import Progress, SchedulerGauges, StepPlan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did to the sequences in it."""

    progress: Many[Progress]
    at_s: float  # when the step's tokens were there, on the engine's clock
    details: Mapping[Sequence, TokenDetails] = field(default_factory=dict)  # of those in progress that asked for any
    faults: Mapping[Sequence, SlipstreamError] = field(default_factory=dict)  # why those in progress failed that did


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """The figures behind NVIDIA's nv_trt_llm_* gauges, at one moment."""

    requests: SchedulerGauges
    iterations: int
    blocks: BlockStatistics
    kv_cache_bytes: int
    drafts: DraftStatistics = field(default_factory=DraftStatistics)  # those of a drafter inside the engine


class Engine:
    """Serves many sequences on one executor by in-flight batching.

    ``listener`` gets a StepReport after every step, on the engine's thread. Without ``start`` no thread exists and
    ``step`` drives the engine, one iteration a call. A ``drafter`` guesses tokens for sequences that take drafts.
    """

    def __init__(
        self,
        executor: Executor,
        config: SchedulerConfig,
        listener: Callable[[StepReport], None],
        clock: Callable[[], float] = time.monotonic,
        drafter: Drafter | None = None,
    ) -> None:
        self.executor = executor
        self.config = config
        self.clock = clock
        self._listener = listener
        self._blocks = BlockManager(
            executor.num_blocks, executor.tokens_per_block, enable_partial_reuse=config.reuses_partial_blocks
        )
        self._scheduler = Scheduler(config, self._blocks)
        self._sampler = StepSampler(executor.vocab_size)
        self._drafter = drafter
        self._changed = threading.Condition()  # guards the scheduler and all below
        self._closing = False
        self._fault: str | None = None
        self._iterations = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Run the loop on a thread of its own until ``close``."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence, whose ``sampling`` is a SamplingState or None: greedy. Thread-safe.

        Raises InvalidRequest when it can never run, Overloaded when the queue is full or the engine is shutting down,
        EngineFault when the loop has died.
        """
        self._sampler.admit(sequence)
        with self._changed:
            if self._fault:
                raise EngineFault(self._fault)
            if self._closing:
                raise Overloaded("the engine is shutting down and takes no new requests. Try another instance.")
            self._scheduler.add(sequence, self.clock())
            self._changed.notify()

    def pin(self, sequence: Sequence) -> int:
        """Keep for good the full blocks of the sequence's prompt, as far as they are there; returns how many.

        Only before ``start``: what has been accepted must not lose blocks that it was promised.
        """
        with self._changed:
            assert self._thread is None, "blocks can be pinned before the engine serves"
            assert self._scheduler.is_idle, "blocks can be pinned while nobody uses or awaits others"
            return self._blocks.pin(sequence)

    def cancel(self, sequence: Sequence) -> bool:
        """Give the sequence up in whatever state it is and free its blocks. False if it had ended. Thread-safe."""
        with self._changed:
            return self._scheduler.cancel(sequence) is not None

    def close(self) -> None:
        """Finish what was accepted, then stop the loop. Thread-safe; returns when the loop has ended."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    @property
    def statistics(self) -> EngineStatistics:
        drafter = self._drafter  # the engine's thread may drop it
        with self._changed:
            return EngineStatistics(
                requests=self._scheduler.gauges,
                iterations=self._iterations,
                blocks=self._blocks.statistics,
                kv_cache_bytes=self.executor.kv_cache_bytes,
                drafts=DraftStatistics() if drafter is None else drafter.statistics,
            )

    def step(self) -> bool:
        """One iteration. False if there was nothing to compute."""
        self._expire()
        self._draft()
        with self._changed:
            plan = self._scheduler.schedule(self.clock())
            if plan is None:
                return False
            batch = StepBatch.of(plan)  # a cancellation may empty block tables once the lock is free
        details: Mapping[Sequence, TokenDetails] = {}
        faults: Mapping[Sequence, SlipstreamError] = {}
        try:
            token_ids = self.executor.execute(self._sampler.with_context_rows(plan, batch))
            choice = self._sampler.choose(plan, token_ids, self.executor.logits)
        except EngineFault:
            log.exception("step failed: sequences=%d", len(plan.entries))
            with self._changed:
                progress = self._scheduler.fail(plan)
        else:
            with self._changed:
                failed = [self._scheduler.finish(sequence, FinishReason.ERROR) for sequence in choice.failed]
                progress = [*filter(None, failed), *self._scheduler.advance(plan, choice.tokens)]
                self._iterations += 1
            details = choice.details(progress)
            faults = choice.failed
            self._verified(plan)
        self._listener(StepReport(progress, self.clock(), details, faults))
        return True

    def check_integrity(self) -> None:
        """Raises EngineFault if the block accounting contradicts itself."""
        with self._changed:
            self._scheduler.check_integrity()

    def _expire(self) -> None:
        """End and report the sequences whose deadline has come."""
        with self._changed:
            now_s = self.clock()
            expired = self._scheduler.expire(now_s)
        if expired:
            self._listener(StepReport(expired, now_s))

    def _draft(self) -> None:
        """Let the drafter guess, outside the lock: it may take a while."""
        if self._drafter is None:
            return
        with self._changed:
            running = list(self._scheduler.running)
            context_tokens = self._context_tokens()
        try:
            self._drafter.draft(running, context_tokens)
        except Exception:
            self._drop_drafter(running)

    def _verified(self, plan: StepPlan) -> None:
        if self._drafter is None:
            return
        try:
            self._drafter.verified(plan)
        except Exception:
            self._drop_drafter([])

    def _drop_drafter(self, running: Many[Sequence]) -> None:
        """Go on without: drafts change no answer, so no request has to end for what is wrong with them."""
        log.exception("drafter failed: no drafts from now on; restart the server to get them back")
        self._drafter = None
        for sequence in running:
            if sequence.state is SequenceState.GENERATION and sequence.max_draft_tokens:
                sequence.draft = []

    def _context_tokens(self) -> int:
        """How many tokens the next step computes at most for contexts, those that start with it included."""
        scheduler, most = self._scheduler, self.config.max_num_tokens
        tokens = sum(s.num_tokens - s.computed for s in scheduler.running if s.state is SequenceState.CONTEXT)
        if len(scheduler.running) < self.config.max_batch_size:
            for sequence in scheduler.queue:
                if tokens >= most:
                    break
                tokens += sequence.num_tokens
        return min(tokens, most)

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self.step()  # nothing, if the last sequence was cancelled in between
        except Exception as error:
            # The loop's last words: whatever broke it, nobody may be left waiting for an answer.
            log.exception("engine loop died")
            reason = str(error) if isinstance(error, SlipstreamError) else "internal error"
            with self._changed:
                self._fault = f"the engine has stopped: {reason}. Restart the server; its log has the details."
                live = [*self._scheduler.running, *self._scheduler.queue]
                ended = [self._scheduler.finish(sequence, FinishReason.ERROR) for sequence in live]
            self._listener(StepReport([progress for progress in ended if progress], self.clock()))

    def _wait_for_work(self) -> bool:
        """Block until there is work. False when the engine is to end."""
        with self._changed:
            if self._scheduler.is_idle:
                self._scheduler.check_integrity()
            while self._scheduler.is_idle:
                if self._closing:
                    return False
                self._changed.wait()
            return True

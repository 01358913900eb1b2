"""The requests that wait for a place in the batch: fair between tenants, most urgent first within one.

The next request is one of the tenant that has the fewest in the batch; among such tenants, of the one whose last turn
is longest ago. So a tenant that has none there waits for at most one request of each other tenant, however many those
have waiting, and for the first free place. Requests that name no tenant are all of the same one.

The urgency of a request at time t, in seconds, is

    priority_s * priority  -  length_s * log2(prompt_tokens + max_new_tokens)  +  (t - arrival_s)

so full priority is worth `priority_s` seconds of waiting and each doubling of the length costs `length_s`.

Two consequences:

- The order of two requests never changes while they wait: in the difference of their urgencies t cancels. The
  term without t (`rank`) therefore orders a heap once and for all.
- Nobody starves: within a tenant, a request that arrives more than priority_s + length_s * log2(max_seq_len)
  seconds after another cannot overtake it, so only finitely many can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from math import log2

from python_backend.errors import EngineFault, Overloaded, SetupError
from python_backend.scheduling.keyed_heap import KeyedHeap
from python_backend.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Urgency:
    """The weights of the formula above. Both zero: first come, first served."""

    priority_s: float = 10.0
    length_s: float = 0.25

    def __post_init__(self) -> None:
        for name in ("priority_s", "length_s"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise SetupError(f"{name} is {value}; it must be a number of seconds from 0 up.")

    def at(self, sequence: Sequence, now_s: float) -> float:
        """Urgency of the sequence now, in seconds."""
        return self.rank(sequence) + now_s

    def rank(self, sequence: Sequence) -> float:
        """The part of the urgency that stays the same while time passes."""
        value = self.priority_s * sequence.priority - self.length_s * log2(sequence.max_tokens)
        return value - sequence.arrival_s


@dataclass(eq=False, slots=True)
class _Tenant:
    turn: int
    waiting: KeyedHeap[Sequence, float] = field(default_factory=KeyedHeap)
    admitted: int = 0  # in the batch, or paused


class RequestQueue:
    """New requests, at most `max_queue_size` of them, and paused sequences, which always go before new ones.

    One tenant may have `max_queue_size_per_tenant` of the new ones. A limit of 0 means none, as in Triton's queue
    policy. Paused sequences do not count: they have been accepted. All operations O(log n), amortized.
    """

    def __init__(
        self, max_queue_size: int = 0, urgency: Urgency | None = None, max_queue_size_per_tenant: int = 0
    ) -> None:
        self.max_queue_size = max_queue_size
        self.max_queue_size_per_tenant = max_queue_size_per_tenant
        self.urgency = urgency or Urgency()
        self._num_new = 0
        self._paused: KeyedHeap[Sequence, float] = KeyedHeap()
        self._turns = count()
        self._tenants: dict[str, _Tenant] = {}  # those with a request here or in the batch
        self._order: KeyedHeap[str, tuple[int, int]] = KeyedHeap()  # those with new requests, next one first

    @property
    def num_new(self) -> int:
        return self._num_new

    @property
    def num_paused(self) -> int:
        return len(self._paused)

    def add(self, sequence: Sequence) -> None:
        """Queue a new request. Raises Overloaded when the queue, or the tenant's part of it, is full."""
        if self.max_queue_size and self._num_new >= self.max_queue_size:
            raise Overloaded(
                f"{self._num_new} requests are waiting; max_queue_size is {self.max_queue_size}. "
                "Try again later, add instances, or raise max_queue_size."
            )
        tenant = self._tenants.get(sequence.tenant)
        limit = self.max_queue_size_per_tenant
        if limit and tenant and len(tenant.waiting) >= limit:
            raise Overloaded(
                f'{len(tenant.waiting)} requests of tenant "{sequence.tenant}" are waiting; max_queue_size_per_tenant '
                f"is {limit}. Try again later, or raise max_queue_size_per_tenant."
            )
        if tenant is None:
            tenant = self._tenants[sequence.tenant] = _Tenant(next(self._turns))
        tenant.waiting.push(sequence, -self.urgency.rank(sequence))
        self._num_new += 1
        self._settle(sequence.tenant)

    def peek(self) -> Sequence | None:
        """The sequence to admit next."""
        paused, name = self._paused.peek(), self._order.peek()
        return paused if paused or name is None else self._tenants[name].waiting.peek()

    def admit(self, sequence: Sequence) -> None:
        """The sequence, which waits here, has got its place in the batch."""
        if self._paused.discard(sequence):
            return
        tenant = self._tenants[sequence.tenant]
        self._take_new(sequence)
        tenant.admitted += 1
        tenant.turn = next(self._turns)
        self._settle(sequence.tenant)

    def put_back(self, sequence: Sequence) -> None:
        """The sequence has lost its place in the batch for now."""
        self._paused.push(sequence, -self.urgency.rank(sequence))

    def retire(self, sequence: Sequence) -> None:
        """The sequence has ended in the batch."""
        self._tenants[sequence.tenant].admitted -= 1
        self._settle(sequence.tenant)

    def discard(self, sequence: Sequence) -> bool:
        """Take the sequence out, wherever it stands; False if it does not wait here."""
        if self._paused.discard(sequence):
            self.retire(sequence)
            return True
        if sequence not in self:
            return False
        self._take_new(sequence)
        self._settle(sequence.tenant)
        return True

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Recompute from the sequences in the batch what is kept of tenants; raises EngineFault where it differs."""
        admitted = Counter(sequence.tenant for sequence in (*running, *self._paused))
        kept = {name: tenant.admitted for name, tenant in self._tenants.items() if tenant.admitted}
        if kept != admitted:
            raise EngineFault(f"of each tenant's requests {dict(admitted)} are in the batch or paused; kept is {kept}")
        waiting = {name: len(tenant.waiting) for name, tenant in self._tenants.items() if tenant.waiting}
        if set(self._order) != waiting.keys() or sum(waiting.values()) != self._num_new:
            raise EngineFault(f"{waiting} requests wait; {self._num_new} of tenants {list(self._order)} are kept")
        for name in self._order:
            tenant = self._tenants[name]
            if self._order.key_of(name) != (tenant.admitted, tenant.turn):
                raise EngineFault(f'tenant "{name}" stands at {self._order.key_of(name)}: {tenant}')

    def _take_new(self, sequence: Sequence) -> None:
        self._tenants[sequence.tenant].waiting.discard(sequence)
        self._num_new -= 1

    def _settle(self, name: str) -> None:
        """Bring the tenant to its place in the order, or forget it with its last request."""
        tenant = self._tenants[name]
        if tenant.waiting:
            self._order.push(name, (tenant.admitted, tenant.turn))
        else:
            self._order.discard(name)
            if not tenant.admitted:
                del self._tenants[name]

    def __len__(self) -> int:
        return self._num_new + len(self._paused)

    def __contains__(self, sequence: Sequence) -> bool:
        tenant = self._tenants.get(sequence.tenant)
        return sequence in self._paused or (tenant is not None and sequence in tenant.waiting)

    def __iter__(self) -> Iterator[Sequence]:
        """All who wait, in no order."""
        yield from self._paused
        for tenant in self._tenants.values():
            yield from tenant.waiting

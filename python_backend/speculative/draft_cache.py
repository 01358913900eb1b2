"""What a draft model has computed of whose tokens: its own sequences and blocks, kept in step with the target's."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from python_backend.scheduling.block_manager import BlockManager, BlockStatistics
from python_backend.scheduling.sequence import Sequence


@dataclass(slots=True)
class _Continuation:
    """A target's sequence as the draft model goes on with it: the target's tokens, then guesses."""

    sequence: Sequence
    verified: int = 0  # so many leading output tokens are known to be the target's

    def follow(self, target: Sequence) -> None:
        """Take over the target's tokens. The KV of guesses that came true stays; that of the others is forgotten."""
        sequence, output, known = self.sequence, self.sequence.output, target.output
        same = self.verified
        while same < min(len(output), len(known)) and output[same] == known[same]:
            same += 1
        output[same:] = known[same:]
        self.verified = len(output)
        # The newest token is left to compute, since what follows it is wanted.
        sequence.computed = min(sequence.computed, sequence.prompt_tokens + same, sequence.num_tokens - 1)


class DraftCache:
    """The draft model's sequences, one for each of the target's, and the blocks of its KV cache.

    Prompts that begin alike share blocks. When blocks run out, the least recently used sequences lose theirs, to
    be computed again when they are wanted again.
    """

    def __init__(self, num_blocks: int, tokens_per_block: int) -> None:
        self._blocks = BlockManager(num_blocks, tokens_per_block)
        self._continuations: OrderedDict[Sequence, _Continuation] = OrderedDict()  # the least recently used first

    @property
    def statistics(self) -> BlockStatistics:
        return self._blocks.statistics

    def use(self, targets: list[Sequence]) -> None:
        """These sequences are wanted now, the first of them most: nobody takes its blocks."""
        for target in reversed(targets):
            if target not in self._continuations:
                self._continuations[target] = _Continuation(_copy_of(target))
            self._continuations.move_to_end(target)

    def follow(self, target: Sequence, guesses: int) -> Sequence | None:
        """The draft model's sequence for one in use, with the target's tokens and blocks for so many more.

        Its ``computed`` says which tokens are in its blocks. None when those in use before it leave no room.
        """
        continuation = self._continuations[target]
        continuation.follow(target)
        sequence = continuation.sequence
        sequence.max_new_tokens = len(sequence.output) + guesses
        if sequence.block_table:
            # Only now, since a guess may not be offered to others before it has come true.
            self._blocks.commit(sequence)
        else:
            self._blocks.attach(sequence, self._blocks.match(sequence))
        if not self._find_room(sequence):
            self._blocks.release(sequence)
            return None
        self._blocks.grow(sequence, sequence.max_kv_tokens)
        return sequence

    def drop_blocks(self, sequence: Sequence) -> None:
        """What is in the blocks of this sequence of the draft model is not to be trusted."""
        self._blocks.release(sequence)

    def forget(self, target: Sequence) -> None:
        """The target's sequence has ended."""
        continuation = self._continuations.pop(target, None)
        if continuation is not None:
            self._blocks.release(continuation.sequence)

    def check_integrity(self) -> None:
        """Raises EngineFault if the block accounting contradicts itself."""
        self._blocks.check_integrity(continuation.sequence for continuation in self._continuations.values())

    def _find_room(self, sequence: Sequence) -> bool:
        needed = self._blocks.blocks_for(sequence.max_kv_tokens)
        if needed > self._blocks.num_blocks:
            return False
        missing = needed - len(sequence.block_table)
        for other in self._continuations.values():
            if missing <= self._blocks.available or other.sequence is sequence:
                break
            self._blocks.release(other.sequence)
        return missing <= self._blocks.available


def _copy_of(target: Sequence) -> Sequence:
    return Sequence(
        id=target.id,
        prompt=target.prompt,
        max_new_tokens=target.max_new_tokens,
        end_id=target.end_id,
        cache_salt=target.cache_salt,
    )

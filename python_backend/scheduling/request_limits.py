"""Which requests an engine can serve at all."""

from __future__ import annotations

from python_backend.errors import InvalidRequest
from python_backend.scheduling.block_manager import BlockManager
from python_backend.scheduling.scheduler_config import CapacityPolicy, SchedulerConfig
from python_backend.scheduling.sequence import Sequence


def check_fits(sequence: Sequence, config: SchedulerConfig, blocks: BlockManager) -> None:
    """Raises InvalidRequest when the sequence could not finish even with the whole engine to itself."""
    size = f"{sequence.prompt_tokens} prompt + {sequence.max_new_tokens} new tokens"
    if sequence.max_tokens > config.max_seq_len:
        raise InvalidRequest(
            f"{size} make {sequence.max_tokens}; max_seq_len is {config.max_seq_len}. "
            "Shorten the prompt or ask for fewer tokens."
        )
    need = blocks.blocks_for(sequence.max_kv_tokens)
    if need > blocks.unpinned + (blocks.pinned_prefix(sequence) if sequence.reads_cache else 0):
        pinned = blocks.num_blocks - blocks.unpinned
        raise InvalidRequest(
            f"{size} need {need} KV cache blocks; this engine has {blocks.num_blocks} of "
            f"{blocks.tokens_per_block} tokens{f', {pinned} of them pinned' if pinned else ''}. "
            "Shorten the request or enlarge the KV cache."
        )
    # Once paused, a sequence recomputes its output too.
    pausing = config.capacity_policy is CapacityPolicy.MAX_UTILIZATION
    context = sequence.max_kv_tokens if pausing else sequence.prompt_tokens
    if not config.enable_chunked_context and context > config.max_num_tokens:
        raise InvalidRequest(
            f"{size} may need a context of {context} tokens; without chunked context a step takes at most "
            f"{config.max_num_tokens} (max_num_tokens). Shorten the request or set enable_chunked_context."
        )

"""What a block is found by: a hash of all tokens from the start of the sequence to the end of the block.

It is H(hash of the block before, tokens of this one), so equal hashes mean equal tokens, and equal cache salts, from
the start on. H is BLAKE2b with 256 bits: a client cannot forge a prefix that reads another's KV.
"""

from __future__ import annotations

from hashlib import blake2b

from python_backend.scheduling.sequence import Sequence

HASH_BYTES = 32


def block_hash(sequence: Sequence, index: int, tokens_per_block: int) -> bytes:
    """Hash of the full block at `index`, remembered by the sequence: its tokens never change."""
    hashes = sequence.block_hashes
    while len(hashes) <= index:
        start = len(hashes) * tokens_per_block
        parent = hashes[-1] if hashes else _root(sequence)
        tokens = sequence.tokens(start, start + tokens_per_block).tobytes()
        hashes.append(blake2b(parent + tokens, digest_size=HASH_BYTES).digest())
    return hashes[index]


def hash_before(sequence: Sequence, index: int, tokens_per_block: int) -> bytes:
    """Hash of the full block before the one at `index`; that of the cache salt before the first one."""
    return block_hash(sequence, index - 1, tokens_per_block) if index else _root(sequence)


def _root(sequence: Sequence) -> bytes:
    """Made in another way than a block's: no salt can be chosen that stands for a block."""
    return blake2b(sequence.cache_salt, digest_size=HASH_BYTES, person=b"cache salt").digest()

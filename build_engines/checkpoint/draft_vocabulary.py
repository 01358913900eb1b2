"""Which tokens a draft model may propose: a file beside its checkpoint, which engines without need of it do not read.

Most of what a model writes is made of few of its tokens, and the lm_head is the larger part of a small draft's weights.
So a draft chooses among the frequent ones only (FR-Spec, Zhao et al., 2025; EAGLE-3, Li et al., 2025). The target
verifies with its whole vocabulary, so that what is generated does not change.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from python_backend.errors import SetupError

DRAFT_VOCABULARY_FILE = "draft_vocabulary.npy"

TokenIds = npt.NDArray[np.int32]


def read_draft_vocabulary(checkpoint_dir: Path, vocab_size: int) -> TokenIds | None:
    """Ids i32 [draft tokens], ascending; None where there is no such file.

    Raises SetupError when it holds anything else, or an id that the model does not have.
    """
    path = checkpoint_dir / DRAFT_VOCABULARY_FILE
    if not path.is_file():
        return None
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SetupError(f"{path} is no .npy file ({error}). Make the checkpoint again.") from error
    problem = vocabulary_problem(ids, vocab_size)
    if problem:
        raise SetupError(f"{path} {problem}. Make the checkpoint again.")
    checked: TokenIds = ids
    return checked


def vocabulary_problem(ids: npt.NDArray[np.generic], vocab_size: int) -> str | None:
    """Why ``ids`` cannot be a draft vocabulary of a model with ``vocab_size`` tokens, if they cannot."""
    if ids.dtype != np.int32 or ids.ndim != 1 or not len(ids):
        return f"holds {ids.dtype} {list(ids.shape)}; token ids are int32 in one dimension, at least one"
    if (np.diff(ids) <= 0).any():
        return "holds token ids that are not in ascending order, each once"
    if ids[0] < 0 or ids[-1] >= vocab_size:
        return f"holds token ids from {ids[0]} to {ids[-1]}; the model has {vocab_size} tokens"
    return None


def draft_vocabulary_bytes(ids: TokenIds) -> bytes:
    """The content of the file."""
    content = io.BytesIO()
    np.save(content, ids, allow_pickle=False)
    return content.getvalue()

"""Whether two engines mean the same by a token id, as a draft and its target must."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from python_backend.engine.manifest import CpuManifest, build_hint
from python_backend.errors import SetupError

_TOKENIZER_FILE = "tokenizer.json"


def check_vocabulary(draft_engine_dir: Path, target_engine_dir: Path) -> None:
    """Raises SetupError when one of the CPU engines is broken, or their vocabularies differ.

    Their tokenizers are compared when both folders hold one: models of different families may have vocabularies of
    the same size, and then no guess would ever come true.
    """
    draft, target = CpuManifest.load(draft_engine_dir), CpuManifest.load(target_engine_dir)
    if draft.vocab_size != target.vocab_size:
        raise SetupError(
            f"the draft engine {draft_engine_dir} has a vocabulary of {draft.vocab_size} tokens, its target "
            f"{target_engine_dir} one of {target.vocab_size}. Name a draft that was made for this target."
        )
    if _TOKENIZER_FILE in draft.files and _TOKENIZER_FILE in target.files:
        _check_tokenizers(draft_engine_dir / _TOKENIZER_FILE, target_engine_dir / _TOKENIZER_FILE)


def _check_tokenizers(draft: Path, target: Path) -> None:
    if draft.read_bytes() == target.read_bytes():
        return
    ids, target_ids = _ids(draft), _ids(target)
    different = [token for token in ids.keys() | target_ids.keys() if ids.get(token) != target_ids.get(token)]
    if different:
        token = min(different)
        raise SetupError(
            f"the tokenizers of the draft engine and its target differ in {len(different)} tokens: {token!r} is "
            f"{ids.get(token)} in {draft} and {target_ids.get(token)} in {target}. "
            "Name a draft that was made for this target."
        )


def _ids(path: Path) -> dict[str, int]:
    try:
        ids: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises bare Exception
        raise SetupError(f"{path} is broken: {error}; {build_hint(path.parent)}") from error
    return ids

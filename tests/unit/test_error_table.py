"""docs/errors.md is the error table, and the table has a row for what the code refuses requests with.

Compared is the wording: the constant parts of a message in the source against the messages of the rows, which
tests/integration/test_errors.py has from the real server. It cannot see a message that is put together elsewhere, which
of two sites with the same wording a row came from, or which of the callers of a shared check.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.error_page import error_page
from tests.integration.error_row import STATUS, Row
from tests.integration.error_table import ROWS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python_backend"
#: Packages and modules that a request does not come through.
OFFLINE = ("launcher/", "errors.py", "engine/manifest.py", "engine/prewarm", "speculative/", "triton/prewarm")
REFUSALS = {"InvalidRequest", "Unsupported", "Overloaded"}

#: Sites that no request reaches through the server, by what they say, and why.
UNREACHED = {
    "prompt is … of shape …; it must be one row": "generation_request.py takes one row of the tensor",
    "max_new_tokens is …; ask for at least 1": "generation_request.py refuses it before",
    "priority is …; it must lie between 0 and 1": "generation_request.py refuses it before",
    "… make …; max_seq_len is …": "generation_request.py refuses it before",
    "embedding_bias is … of shape …; it must be one row": "Triton checks the shape",
    "bad_words holds a word without tokens": "word_list.py refuses it before",
    "token id … in bad_words is not in the vocabulary": "word_list.py refuses it before",
    "stop word … of … is empty": "preprocessing leaves out empty words, and word_list.py refuses those without ids",
    "… has shape …; send [2, n]": "Triton checks the shape",
    "… is no token id; ids lie between": "ids are checked against the vocabulary before",
    "the bad word … has no tokens": "a text has tokens with the tokenizers of the supported families",
    "use_draft_logits needs a draft model": "needs another drafter than the servers of the table have",
    "a response of … MiB does not fit the … MiB of shared memory": "depends on the machine",
    "the engine is shutting down": "the server takes no requests any more when its models end",
}


def wording(call: ast.Call) -> str | None:
    """The message of a refusal with … for its values; None when it is put together elsewhere."""
    if not call.args or not isinstance(call.args[0], (ast.Constant, ast.JoinedStr)):
        return None
    message = call.args[0]
    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)


def refusals() -> Iterator[tuple[str, str | None]]:
    """Where the modules that a request comes through refuse it, and with which wording."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(OFFLINE):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REFUSALS:
                    yield f"{name}:{node.lineno}", wording(node)


def matches(said: str, row: Row) -> bool:
    """Whether a message of that wording may be the row's, each of the two with … for what varies."""
    pattern = ".*".join(re.escape(part) for part in said.split("…"))
    return re.fullmatch(pattern, row.message, re.DOTALL) is not None


def test_the_page_in_docs_is_current() -> None:
    written = (ROOT / "docs" / "errors.md").read_text()
    assert written == error_page(), "write it anew: python -m tests.integration.error_page > docs/errors.md"


def test_every_refusal_in_the_code_has_a_row() -> None:
    without = [
        f"{place}: {said}"
        for place, said in refusals()
        if said is not None
        and not any(matches(said, row) for row in ROWS)
        and not any(said.startswith(beginning) for beginning in UNREACHED)
    ]
    assert without == []


def test_what_is_said_to_be_unreached_is_in_the_code() -> None:
    said = [wording for _, wording in refusals() if wording is not None]
    assert [beginning for beginning in UNREACHED if not any(each.startswith(beginning) for each in said)] == []


@pytest.mark.parametrize("error", STATUS)
def test_every_class_has_a_row(error: str) -> None:
    assert any(row.error == error for row in ROWS)


def test_rows_are_told_apart_by_what_the_client_did() -> None:
    names = [(row.did, row.message) for row in ROWS]
    assert len(set(names)) == len(names)

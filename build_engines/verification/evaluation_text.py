"""The text that accuracy is measured on, as token ids.

The default is prose about programs that every Python has: the docstrings of some modules of its standard library,
read from their source. It differs a little between Python versions, so figures compare within one.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from build_engines.quantization.token_pieces import TokenIds, even_pieces, prompt_prefix, text_tokens
from python_backend.errors import SetupError

#: Calibration must not read these.
EVALUATION_MODULES = (
    "argparse",
    "asyncio.base_events",
    "calendar",
    "collections",
    "configparser",
    "datetime",
    "decimal",
    "doctest",
    "email.message",
    "fractions",
    "heapq",
    "http.client",
    "inspect",
    "ipaddress",
    "logging",
    "mailbox",
    "optparse",
    "pathlib",
    "pickletools",
    "random",
    "shutil",
    "statistics",
    "string",
    "subprocess",
    "tarfile",
    "textwrap",
    "threading",
    "turtle",
    "typing",
    "urllib.parse",
    "zipfile",
)


def default_text() -> str:
    """The docstrings of ``EVALUATION_MODULES`` in the order in which they are written."""
    return "\n\n".join(docstring for name in EVALUATION_MODULES for docstring in _docstrings(name))


def read_text(files: Sequence[Path]) -> str:
    """Raises SetupError when a file cannot be read as UTF-8."""
    try:
        return "\n\n".join(path.read_text(encoding="utf-8") for path in files)
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"evaluation text cannot be read ({error}). Name UTF-8 text files.") from error


def token_sequences(text: str, tokenizer_json: Path, *, max_tokens: int, sequence_tokens: int) -> TokenIds:
    """Sequences [sequences, sequence_tokens] of at most ``max_tokens`` together, taken evenly from the text.

    Each begins with what the tokenizer puts before any text (a BOS token, say). A shorter text makes one sequence.
    Raises SetupError when it has fewer than two tokens.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    ids = text_tokens(tokenizer, text)
    if len(ids) < 2:
        raise SetupError(f"the evaluation text has {len(ids)} tokens; at least 2 are needed. Name a longer text.")
    length = min(sequence_tokens, max_tokens)
    return even_pieces(ids, prompt_prefix(tokenizer), tokens=length, most=max_tokens // length)


def _docstrings(module: str) -> Iterable[str]:
    spec = importlib.util.find_spec(module)
    assert spec, module
    assert spec.origin, module
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring

"""The error table as a page to read: ``docs/errors.md`` is what this prints.

python -m tests.integration.error_page > docs/errors.md
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.integration.error_row import STATUS, Row
from tests.integration.error_table import SECTIONS

_HEAD = """# Errors

Everything that can be wrong with a request, from `tests/integration/error_table.py` (`python -m
tests.integration.error_page` prints this page). A test sends each row to the real server: by each way for which a code
or status stands here, and over a gRPC stream.

- **The class** says whose turn it is. `InvalidRequest`: change the request. `Unsupported`: this engine has no such
  thing. `Overloaded`: try again later. `EngineFault`: look into the server's log. `Triton`: the server refused before
  any model saw the request.
- **gRPC** is the code of `ModelInfer`, in the profile `cpu-unary`. On a stream (`ModelStreamInfer`) an error is a
  message without a code. Do not send the header `triton_grpc_error`, which would add one: Triton 2.51 crashes with it.
- **/generate** gives every error of a model the status 400, whatever its class, and so does `/generate_stream`, in an
  event that holds `error`. **/infer** gives the class's own status.
- Behind `ensemble`, messages begin with `in ensemble 'ensemble', `. In this page `…` stands for what varies.
- A request is refused as a whole: with one bad row in a batch, none runs. Requests beside it are not affected.
"""

_TAIL = """## What has no row

Errors that no request can bring about by itself: the engine's loop has died (`EngineFault`, "the engine has stopped:
…"), the server is shutting down (`Overloaded`, "the engine is shutting down …"), a response does not fit the shared
memory that is free (`Overloaded`, "a response of … MiB does not fit …"), and what nobody foresaw ("internal error; the
server's log has the details", INTERNAL, 500 at /infer).
"""

_NONE = "-"


def error_page() -> str:
    """All rows, in Markdown."""
    sections = (line for name, rows in SECTIONS.items() for line in _section(name, rows))
    return "\n".join([_HEAD, *_classes(), *sections, _TAIL])


def _classes() -> Iterator[str]:
    yield "| class | gRPC | /generate | /infer |\n|---|---|---|---|"
    for error, (code, generate, infer) in STATUS.items():
        if error != "Triton":
            yield f"| `{error}` | {code} | {generate} | {infer} |"
    yield ""


def _section(name: str, rows: tuple[Row, ...]) -> Iterator[str]:
    yield f"## {name}\n"
    yield "| the request | class | gRPC | /generate | /infer | message, and what to do |\n|---|---|---|---|---|---|"
    for row in rows:
        code, generate, infer = row.status
        shown = [
            code if "unary" in row.doors else _NONE,
            generate if "generate" in row.doors else _NONE,
            infer if "infer" in row.doors else _NONE,
        ]
        todo = f" **{row.todo}**" if row.todo else ""
        cells = [row.did, f"`{row.error}`", *shown, f"{_escaped(row.message)}{todo}"]
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""


def _escaped(message: str) -> str:
    """As it is, in Markdown: messages hold names with underscores, brackets and stars."""
    fence = "``" if "`" in message else "`"
    return f"{fence}{message}{fence}".replace("|", "\\|")


if __name__ == "__main__":
    print(error_page(), end="")

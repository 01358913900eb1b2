"""``python -m build_engines``: make checkpoints, and engines from them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from build_engines.cpu.compile import compile_cpu_engine
from build_engines.sources.demo_model import demo_gguf
from build_engines.sources.gguf_checkpoint import import_gguf
from python_backend.errors import SlipstreamError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed with one line on stderr, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (SlipstreamError, OSError) as error:
        print(f"build_engines: {error}", file=sys.stderr)
        return 1
    return 0


def _demo(options: argparse.Namespace) -> None:
    _import(demo_gguf(), options.checkpoint_dir)
    _compile(options)


def _import_gguf(options: argparse.Namespace) -> None:
    _import(options.gguf_file, options.checkpoint_dir)


def _import(gguf_file: Path, checkpoint_dir: Path) -> None:
    _step(f"import {gguf_file.name}", checkpoint_dir, lambda: import_gguf(gguf_file, checkpoint_dir))


def _compile(options: argparse.Namespace) -> None:
    def run() -> bool:
        return compile_cpu_engine(
            options.checkpoint_dir,
            options.engine_dir,
            max_seq_len=options.max_seq_len,
            quantize_lm_head=options.quantize_lm_head,
        )

    _step("compile CPU engine", options.engine_dir, run)


def _step(what: str, result: Path, run: Callable[[], bool]) -> None:
    """Run one step that says whether it had to do anything, with its time."""
    console = Console(highlight=False, soft_wrap=True)
    started_s = time.monotonic()
    with console.status(what):
        done = run()
    elapsed_s = time.monotonic() - started_s
    console.print(f"{what}: {result} [dim]{'' if done else 'up to date, '}{elapsed_s:.1f} s[/dim]")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m build_engines", description=__doc__.partition(": ")[2])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="make the demo engine, SmolLM2-135M-Instruct in INT8")
    demo.add_argument("--checkpoint-dir", type=Path, default=Path("checkpoints/smollm2-135m"), metavar="DIR")
    demo.add_argument("--engine-dir", type=Path, default=Path("engines/smollm2-135m-int8"), metavar="DIR")
    _add_compile_options(demo)
    demo.set_defaults(run=_demo)

    gguf = commands.add_parser("import-gguf", help="make a TensorRT-LLM checkpoint from a GGUF file")
    gguf.add_argument("gguf_file", type=Path, metavar="FILE")
    gguf.add_argument("checkpoint_dir", type=Path, metavar="DIR")
    gguf.set_defaults(run=_import_gguf)

    compile_cpu = commands.add_parser("compile-cpu", help="make a CPU engine from a TensorRT-LLM checkpoint")
    compile_cpu.add_argument("checkpoint_dir", type=Path, metavar="CHECKPOINT")
    compile_cpu.add_argument("engine_dir", type=Path, metavar="ENGINE")
    _add_compile_options(compile_cpu)
    compile_cpu.set_defaults(run=_compile)
    return parser


def _add_compile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-seq-len",
        type=int,
        metavar="TOKENS",
        help="most tokens of prompt and output together (default: the model's)",
    )
    parser.add_argument(
        "--quantize-lm-head",
        action=argparse.BooleanOptionalAction,
        help="INT8 for the lm_head and a tied embedding (default: when the checkpoint's quant_algo is W8A16)",
    )


if __name__ == "__main__":
    sys.exit(main())

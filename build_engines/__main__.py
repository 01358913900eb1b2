"""``python -m build_engines``: from any checkpoint to verified engines, for GPUs and without."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from build_engines.accuracy_command import add_accuracy_parser
from build_engines.check import check_engine
from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.reader import Checkpoint
from build_engines.cpu.compile import compile_cpu_engine
from build_engines.draft_command import add_draft_parser
from build_engines.dry_run import describe
from build_engines.lora.tensorrt_llm_lora import convert_lora
from build_engines.pipeline import Pipeline
from build_engines.planning.command import add_plan_parser
from build_engines.progress import BuildDisplay
from build_engines.recipe import Recipe
from build_engines.sources.open_source import open_source
from build_engines.verification.settings import VerificationSettings
from build_engines.verification.verify import measure
from build_engines.whole_number import at_least
from python_backend.errors import SetupError, SlipstreamError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns the exit code: 0 done, 1 failed with the reason on stderr, 2 wrong usage, 128 and the number of a signal.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # As in `... --dry-run | head`: nobody reads on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (SlipstreamError, OSError) as error:
        print(f"build_engines: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("build_engines: interrupted; run it again to go on from the last complete step.", file=sys.stderr)
        return 130
    return 0


def _build(options: argparse.Namespace) -> None:
    recipe = Recipe.read(options.recipe)
    if options.source:
        recipe = recipe.model_copy(update={"source": str(options.source)})
    if options.dry_run:
        for line in describe(recipe):
            print(line)
    else:
        command = ["python", "-m", "build_engines", "build", str(options.recipe)]
        if options.source:
            command += ["--source", str(options.source)]
        Pipeline(recipe, shlex.join(command)).run()


def _verify(options: argparse.Namespace) -> None:
    settings = VerificationSettings(text=options.text or "default", max_tokens=options.max_tokens)
    display = BuildDisplay()
    with display.step("verify") as report:
        found = measure(open_source(options.source), Checkpoint.open(options.checkpoint_dir), settings, report=report)
    if options.json:
        print(found.to_json(), end="")
    else:
        display.console.print(found.table())
    found.check()


def _check(options: argparse.Namespace) -> None:
    findings = check_engine(options.engine_dir, content=options.content, model_repository=options.model_repository)
    for finding in findings:
        print(finding)
    if any(finding.remedy for finding in findings):
        raise SetupError(f"{options.engine_dir} cannot be served as it is.")


def _lora(options: argparse.Namespace) -> None:
    def convert() -> bool:
        return convert_lora(options.adapter_dir, CheckpointConfig.read(options.checkpoint_dir), options.out_dir)

    BuildDisplay().run("convert LoRA adapter", options.out_dir, lambda _: convert())


def _compile_cpu(options: argparse.Namespace) -> None:
    def run() -> bool:
        return compile_cpu_engine(
            options.checkpoint_dir,
            options.engine_dir,
            max_seq_len=options.max_seq_len,
            quantize_lm_head=options.quantize_lm_head,
        )

    BuildDisplay().run("compile CPU engine", options.engine_dir, lambda _: run())


def _schema(options: argparse.Namespace) -> None:
    print(recipe_schema(), end="")


def recipe_schema() -> str:
    """The JSON schema of recipes, by which editors complete and check them."""
    return json.dumps(Recipe.model_json_schema(), indent=2) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m build_engines", description=__doc__.partition(": ")[2])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="make all that a recipe names; only what has changed is made again")
    build.add_argument("recipe", type=Path, metavar="RECIPE", help="a YAML file like those in recipes/")
    build.add_argument("--source", type=Path, metavar="MODEL", help="the model, if it is not where the recipe says")
    build.add_argument("--dry-run", action="store_true", help="say what would be made, and by which commands")
    build.set_defaults(run=_build)

    add_plan_parser(commands)

    verify = commands.add_parser("verify", help="say how near a checkpoint is to the model that it was made from")
    verify.add_argument("checkpoint_dir", type=Path, metavar="CHECKPOINT")
    verify.add_argument("source", type=Path, metavar="MODEL", help="Hugging Face directory or .gguf")
    verify.add_argument("--text", type=Path, nargs="+", metavar="FILE", help="text to predict (default: built in)")
    verify.add_argument("--max-tokens", type=at_least(2), default=8192, metavar="TOKENS", help="default: %(default)s")
    verify.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verify.set_defaults(run=_verify)

    check = commands.add_parser("check", help="say whether an engine is whole, and can be served here")
    check.add_argument("engine_dir", type=Path, metavar="ENGINE")
    check.add_argument("--content", action="store_true", help="read all files and compare their SHA-256")
    check.add_argument(
        "--model-repository",
        type=Path,
        metavar="DIR",
        help="compare its tensorrt_llm/config.pbtxt with the engine's limits",
    )
    check.set_defaults(run=_check)

    add_accuracy_parser(commands)

    add_draft_parser(commands)

    lora = commands.add_parser("lora", help="convert a PEFT adapter for TensorRT-LLM engines")
    lora.add_argument("adapter_dir", type=Path, metavar="ADAPTER")
    lora.add_argument("checkpoint_dir", type=Path, metavar="CHECKPOINT", help="of the model that it adapts")
    lora.add_argument("out_dir", type=Path, metavar="DIR", help="named by the lora_task_id that requests will give")
    lora.set_defaults(run=_lora)

    compile_cpu = commands.add_parser("compile-cpu", help="make a CPU engine from a TensorRT-LLM checkpoint")
    compile_cpu.add_argument("checkpoint_dir", type=Path, metavar="CHECKPOINT")
    compile_cpu.add_argument("engine_dir", type=Path, metavar="ENGINE")
    compile_cpu.add_argument(
        "--max-seq-len",
        type=int,
        metavar="TOKENS",
        help="most tokens of prompt and output together (default: the model's)",
    )
    compile_cpu.add_argument(
        "--quantize-lm-head",
        action=argparse.BooleanOptionalAction,
        help="INT8 for the lm_head and a tied embedding (default: when the layers are quantized)",
    )
    compile_cpu.set_defaults(run=_compile_cpu)

    schema = commands.add_parser("schema", help="print the JSON schema of recipes, for editors")
    schema.set_defaults(run=_schema)
    return parser


def _terminate(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)  # Drafts are removed, and containers ended, as after Ctrl-C.
    sys.exit(main())

"""``python -m build_engines accuracy``: one model in every format, compared with itself before."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from build_engines.checkpoint.writer import write_checkpoint
from build_engines.progress import BuildDisplay, Report
from build_engines.quantization.quantize import quantized_config, quantized_tensors
from build_engines.quantization.settings import CalibrationSettings, QuantizationSettings
from build_engines.sources.demo_model import demo_gguf
from build_engines.sources.model_source import ModelSource
from build_engines.sources.open_source import open_source
from build_engines.verification.evaluation_text import default_text, token_sequences
from build_engines.whole_number import at_least

if TYPE_CHECKING:
    from argparse import _SubParsersAction

#: By the names that the table gives them. Groups of 64 divide the layers of most small models.
_FORMATS = {
    "float16": QuantizationSettings(dtype="float16"),
    "bfloat16": QuantizationSettings(dtype="bfloat16"),
    "bfloat16, KV INT8": QuantizationSettings(dtype="bfloat16", kv_cache="int8"),
    "bfloat16, KV FP8": QuantizationSettings(dtype="bfloat16", kv_cache="fp8"),
    "int8_wo": QuantizationSettings(format="int8_wo", dtype="float16"),
    "fp8": QuantizationSettings(format="fp8", dtype="bfloat16"),
    "fp8, KV FP8": QuantizationSettings(format="fp8", dtype="bfloat16", kv_cache="fp8"),
    "int8_sq": QuantizationSettings(format="int8_sq", dtype="float16"),
    "nvfp4": QuantizationSettings(format="nvfp4", dtype="bfloat16"),
    "int4_awq, groups of 64": QuantizationSettings(format="int4_awq", dtype="float16", group_size=64),
    "w4a8_awq, groups of 64": QuantizationSettings(format="w4a8_awq", dtype="float16", group_size=64),
    "int4_wo, groups of 64": QuantizationSettings(format="int4_wo", dtype="float16", group_size=64),
    "int4_wo": QuantizationSettings(format="int4_wo", dtype="float16"),
}


def add_accuracy_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to ``python -m build_engines``."""
    accuracy = commands.add_parser("accuracy", help="compare all formats on one model: the table of docs/accuracy.md")
    accuracy.add_argument(
        "source", type=Path, nargs="?", metavar="MODEL", help="Hugging Face directory or .gguf (default: the demo)"
    )
    accuracy.add_argument("--formats", nargs="+", choices=_FORMATS, default=list(_FORMATS), metavar="NAME")
    accuracy.add_argument(
        "--samples",
        type=at_least(1),
        default=16,
        metavar="N",
        help="calibration samples of 512 tokens (default: %(default)s)",
    )
    accuracy.add_argument(
        "--max-tokens",
        type=at_least(2),
        default=8192,
        metavar="TOKENS",
        help="tokens to predict (default: %(default)s)",
    )
    accuracy.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    accuracy.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from build_engines.verification.accuracy import accuracy_table  # Which needs torch.

    source = open_source(options.source or demo_gguf())
    display = BuildDisplay()
    with TemporaryDirectory(prefix="accuracy-", dir=Path.cwd()) as folder:
        checkpoints: dict[str, Path] = {}
        for name in options.formats:
            calibration = CalibrationSettings(samples=options.samples)
            settings = _FORMATS[name].model_copy(update={"calibration": calibration})
            checkpoints[name] = Path(folder) / name
            with display.step(name) as report:
                _make(source, settings, checkpoints[name], report)
        with display.step("compare") as report:
            tokens = token_sequences(
                default_text(),
                checkpoints[options.formats[0]] / "tokenizer.json",
                max_tokens=options.max_tokens,
                sequence_tokens=512,
            )
            table = accuracy_table(source, checkpoints, tokens, report=report)
    print(table.to_markdown(), end="")
    if options.json:
        options.json.write_text(table.to_json(), encoding="utf-8")


def _make(source: ModelSource, settings: QuantizationSettings, directory: Path, report: Report) -> None:
    config = quantized_config(source.config, settings)
    with quantized_tensors(source, config, settings, workplace=directory.parent, report=report) as tensor:
        write_checkpoint(directory, config, tensor, source.files)

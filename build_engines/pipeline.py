"""A recipe's steps: checkpoint, verification, engines. Each is skipped when its inputs are those of the last time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.tensor_table import tensor_table
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.content_hash import builder_sha256, sha256_of
from build_engines.cpu.compile import compile_cpu_engine
from build_engines.lora.merge import MergedSource
from build_engines.progress import BuildDisplay, Report
from build_engines.quantization.quantize import quantized_config, quantized_tensors
from build_engines.recipe import Recipe
from build_engines.sources.hugging_face_config import HuggingFaceConfig
from build_engines.sources.model_source import ModelSource
from build_engines.sources.open_source import open_source
from build_engines.tensorrt_llm.compile import compile_tensorrt_llm_engine
from build_engines.verification.verify import measure
from python_backend.errors import SetupError

#: What a checkpoint was made of and by: it is made again when that changes.
SOURCE_FILE = "source.json"
#: What verification found, and for which checkpoint, source and settings.
VERIFICATION_FILE = "verification.json"
_QUANTIZERS = ("nvidia-modelopt", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Builds a recipe into ``checkpoints/<name>`` and ``engines/<name>`` of the working directory."""

    recipe: Recipe
    recipe_file: Path
    display: BuildDisplay = field(default_factory=BuildDisplay)

    @property
    def build_command(self) -> str:
        return f"python -m build_engines build {self.recipe_file}"

    def run(self) -> None:
        """Raises SetupError at the first step that fails; what was made before is kept, and not made again."""
        recipe, display = self.recipe, self.display
        source = recipe_source(recipe)
        for notice in source.notices:
            display.note(notice)
        config = recipe_config(recipe, source.config)
        display.run("checkpoint", recipe.checkpoint_dir, lambda report: self._checkpoint(source, config, report))
        checkpoint = Checkpoint.open(recipe.checkpoint_dir)
        display.run("verify", recipe.checkpoint_dir, lambda report: self._verify(source, checkpoint, report))
        if recipe.cpu:
            display.run("compile CPU engine", recipe.cpu_engine_dir, lambda _: self._compile_cpu(source))
        if recipe.tensorrt_llm:
            what = "compile TensorRT-LLM engine"
            display.run(what, recipe.tensorrt_llm_engine_dir, lambda report: self._compile_tensorrt_llm(source, report))

    def _checkpoint(self, source: ModelSource, config: CheckpointConfig, report: Report) -> bool:
        directory, settings = self.recipe.checkpoint_dir, self.recipe.quantization
        report(0, 0, "hash the source")
        stamp = self._stamp(source)
        if _text(directory / SOURCE_FILE) == stamp and _opens(directory):
            return False
        directory.parent.mkdir(parents=True, exist_ok=True)
        total = sum(entry.whole.size_bytes for entry in tensor_table(config).values())
        written = 0

        def advance(size_bytes: int) -> None:
            nonlocal written
            written += size_bytes
            report(written, total, "write")

        with TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as workplace:
            quantizing = quantized_tensors(
                source, config, settings, workplace=Path(workplace), report=report, notice=self.display.note
            )
            with quantizing as tensor:
                write_checkpoint(
                    directory, config, tensor, {**source.files, SOURCE_FILE: stamp.encode()}, advance=advance
                )
        return True

    def _stamp(self, source: ModelSource) -> str:
        settings = self.recipe.quantization
        keys: dict[str, Any] = {
            "source": self.recipe.source,
            "source_sha256": source.sha256(),
            "quantization": settings.model_dump(mode="json"),
            "parallel": self.recipe.parallel.model_dump(),
            "builder_sha256": builder_sha256("checkpoint", "sources", "quantization", "lora"),
        }
        if settings.calibrated:
            keys["calibration_sha256"] = sha256_of(*settings.calibration.text_files)
            keys["packages"] = {name: _version(name) for name in _QUANTIZERS}
        return json.dumps(keys, indent=2) + "\n"

    def _verify(self, source: ModelSource, checkpoint: Checkpoint, report: Report) -> bool:
        settings = self.recipe.verification
        keys: dict[str, Any] = {
            "checkpoint_sha256": checkpoint.sha256(),
            "source_sha256": source.sha256(),
            "settings": settings.model_dump(mode="json"),
            "builder_sha256": builder_sha256("checkpoint", "quantization", "verification"),
        }
        if isinstance(settings.text, list):
            keys["text_sha256"] = sha256_of(*settings.text)
        path = checkpoint.directory / VERIFICATION_FILE
        known = json.loads(_text(path) or "{}")
        if known.get("of") == keys and known["report"]["passed"]:
            return False
        found = measure(source, checkpoint, settings, report=report)
        path.write_text(json.dumps({"of": keys, "report": found.to_dict()}, indent=2) + "\n", encoding="utf-8")
        self.display.console.print(found.table())
        found.check()
        return True

    def _compile_cpu(self, source: ModelSource) -> bool:
        recipe = self.recipe
        assert recipe.cpu
        return compile_cpu_engine(
            recipe.checkpoint_dir,
            recipe.cpu_engine_dir,
            max_seq_len=recipe.max_seq_len,
            quantize_lm_head=recipe.cpu.quantize_lm_head,
            source_sha256=source.sha256(),
            accuracy=self._accuracy(),
            made_by=self.build_command,
        )

    def _compile_tensorrt_llm(self, source: ModelSource, report: Report) -> bool:
        recipe = self.recipe
        assert recipe.tensorrt_llm
        return compile_tensorrt_llm_engine(
            recipe.checkpoint_dir,
            recipe.tensorrt_llm_engine_dir,
            recipe.tensorrt_llm,
            max_seq_len=recipe.max_seq_len,
            source_sha256=source.sha256(),
            accuracy=self._accuracy(),
            made_by=self.build_command,
            report=report,
        )

    def _accuracy(self) -> dict[str, float]:
        """The summary of the verification, for the manifest."""
        found = json.loads((self.recipe.checkpoint_dir / VERIFICATION_FILE).read_text(encoding="utf-8"))["report"]
        summary = {"mean_weight_error": found["weights"]["mean_relative_error"]}
        if found["text"]:
            names = ("perplexity", "source_perplexity", "kl_divergence", "top1_agreement")
            summary |= {name: found["text"][name] for name in names}
        return summary


def recipe_source(recipe: Recipe) -> ModelSource:
    """The recipe's model, with its LoRA adapter if it names one. Raises SetupError when it is not the one expected."""
    source = open_source(recipe.source_path())
    if recipe.expects:
        _check_expected(recipe.source, source.config, HuggingFaceConfig.read(recipe.expects.parent).checkpoint_config())
    return MergedSource(source, recipe.merge_lora) if recipe.merge_lora else source


def recipe_config(recipe: Recipe, source: CheckpointConfig) -> CheckpointConfig:
    """What the checkpoint will be. Raises SetupError, before any work, for all that cannot be had of this model."""
    parallel = recipe.parallel
    return quantized_config(source, recipe.quantization, tp_size=parallel.tp_size, pp_size=parallel.pp_size)


def _check_expected(name: str, found: CheckpointConfig, expected: CheckpointConfig) -> None:
    theirs = expected.model_dump(exclude={"dtype"})
    for key, value in found.model_dump(exclude={"dtype"}).items():
        if value != theirs[key]:
            raise SetupError(
                f"{name} has {key} {value}; the recipe expects {theirs[key]}. "
                "Name the model that the recipe is for, or take its expects: away."
            )


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _opens(checkpoint_dir: Path) -> bool:
    try:
        Checkpoint.open(checkpoint_dir)
    except SetupError:  # Somebody changed it; it is mended by making it again.
        return False
    return True


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # The step that needs it says so, with the command that installs it.
        return None

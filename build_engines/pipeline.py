"""A recipe's steps: checkpoint, verification, engines. Each is skipped when its inputs are those of the last time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.reader import Checkpoint
from build_engines.checkpoint.tensor_table import tensor_table
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.content_hash import builder_sha256, sha256_of
from build_engines.cpu.compile import check_max_seq_len, compile_cpu_engine
from build_engines.draft.source import DraftSource
from build_engines.lora.merge import MergedSource
from build_engines.progress import BuildDisplay, Report
from build_engines.publish import workplace
from build_engines.quantization.quantize import quantized_config, quantized_tensors
from build_engines.recipe import Recipe
from build_engines.sources.hugging_face_config import HuggingFaceConfig
from build_engines.sources.model_source import ModelSource
from build_engines.sources.open_source import open_source
from build_engines.tensorrt_llm.compile import compile_tensorrt_llm_engine
from build_engines.tensorrt_llm.compile import dry_run as tensorrt_llm_commands
from build_engines.verification.verify import measure, need_torch
from python_backend.errors import SetupError

#: What a checkpoint was made of and by: it is made again when that changes.
SOURCE_FILE = "source.json"
#: What verification found, and for which checkpoint, source and settings.
VERIFICATION_FILE = "verification.json"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Builds a recipe into ``checkpoints/<name>`` and ``engines/<name>`` of the working directory.

    ``build_command``, which makes the engines again, goes into their manifests.
    """

    recipe: Recipe
    build_command: str
    display: BuildDisplay = field(default_factory=BuildDisplay)

    def run(self) -> None:
        """Raises SetupError at the first step that fails; what was made before is kept, and not made again.

        Also while another process builds the same recipe here.
        """
        recipe, display = self.recipe, self.display
        source = recipe_source(recipe)
        for notice in source.notices:
            display.note(notice)
        config = recipe_config(recipe, source.config)
        with workplace(recipe.checkpoint_dir, "build") as folder:
            self._steps(source, config, folder)

    def _steps(self, source: ModelSource, config: CheckpointConfig, folder: Path) -> None:
        recipe, run = self.recipe, self.display.run
        run("checkpoint", recipe.checkpoint_dir, lambda report: self._checkpoint(source, config, folder, report))
        checkpoint = Checkpoint.open(recipe.checkpoint_dir)
        run("verify", recipe.checkpoint_dir, lambda report: self._verify(source, checkpoint, report))
        if recipe.cpu:
            run("compile CPU engine", recipe.cpu_engine_dir, lambda _: self._compile_cpu(source))
        if recipe.tensorrt_llm:
            what = "compile TensorRT-LLM engine"
            run(what, recipe.tensorrt_llm_engine_dir, lambda report: self._compile_tensorrt_llm(source, report))

    def _checkpoint(self, source: ModelSource, config: CheckpointConfig, folder: Path, report: Report) -> bool:
        directory, settings = self.recipe.checkpoint_dir, self.recipe.quantization
        report(0, 0, "hash the source")
        stamp = self._stamp(source)
        if _text(directory / SOURCE_FILE) == stamp and _opens(directory):
            return False
        need_torch(self.recipe.verification)  # Not found out after hours of quantization.
        total = sum(entry.whole.size_bytes for entry in tensor_table(config).values())
        written = 0

        def advance(size_bytes: int) -> None:
            nonlocal written
            written += size_bytes
            report(written, total, "write")

        quantizing = quantized_tensors(
            source, config, settings, workplace=folder, report=report, notice=self.display.note
        )
        with quantizing as tensor:
            write_checkpoint(directory, config, tensor, {**source.files, SOURCE_FILE: stamp.encode()}, advance=advance)
        return True

    def _stamp(self, source: ModelSource) -> str:
        """By content and not by path: a model or a text that was moved is still the same.

        ModelOpt's version is not in it, for our code pins that, and a machine that only compiles may lack it.
        """
        settings = self.recipe.quantization
        paths: dict[str, Any] = {"calibration": {"files"} if settings.calibrated else True}
        keys: dict[str, Any] = {
            "source_sha256": source.sha256(),
            "quantization": settings.model_dump(mode="json", exclude=paths),
            "parallel": self.recipe.parallel.model_dump(),
            "builder_sha256": builder_sha256("checkpoint", "sources", "quantization", "lora", "draft"),
        }
        if settings.calibrated:
            keys["calibration_sha256"] = sha256_of(*settings.calibration.text_files)
        return json.dumps(keys, indent=2) + "\n"

    def _verify(self, source: ModelSource, checkpoint: Checkpoint, report: Report) -> bool:
        settings = self.recipe.verification
        files = settings.text if isinstance(settings.text, list) else None
        keys: dict[str, Any] = {
            "checkpoint_sha256": checkpoint.sha256(),
            "source_sha256": source.sha256(),
            "settings": settings.model_dump(mode="json", exclude={"text"} if files else None),
            "builder_sha256": builder_sha256("checkpoint", "quantization", "verification"),
        }
        if files:
            keys["text_sha256"] = sha256_of(*files)
        path = checkpoint.directory / VERIFICATION_FILE
        if _passed(path, keys):
            return False
        found = measure(source, checkpoint, settings, report=report)
        draft = path.with_name(f".{path.name}")
        draft.write_text(json.dumps({"of": keys, "report": found.to_dict()}, indent=2) + "\n", encoding="utf-8")
        draft.replace(path)
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
            accuracy=self._accuracy(source),
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
            accuracy=self._accuracy(source),
            made_by=self.build_command,
            report=report,
        )

    def _accuracy(self, source: ModelSource) -> dict[str, float]:
        """The summary of the verification, and of a draft's evaluation, for the manifest."""
        found = json.loads((self.recipe.checkpoint_dir / VERIFICATION_FILE).read_text(encoding="utf-8"))["report"]
        summary = {"mean_weight_error": found["weights"]["mean_relative_error"]}
        if found["text"]:
            names = ("perplexity", "source_perplexity", "kl_divergence", "top1_agreement")
            summary |= {name: found["text"][name] for name in names}
        if isinstance(source, DraftSource):
            summary["acceptance_rate"] = source.evaluation.acceptance.greedy
        return summary


def recipe_source(recipe: Recipe) -> ModelSource:
    """The recipe's model, with its LoRA adapter if it names one; its draft, if it builds that.

    Raises SetupError when it is not the one expected.
    """
    source = open_source(recipe.source_path())
    if recipe.expects:
        _check_expected(recipe.source, source.config, HuggingFaceConfig.read(recipe.expects.parent).checkpoint_config())
    if recipe.draft:
        return DraftSource(source, recipe.draft)
    return MergedSource(source, recipe.merge_lora) if recipe.merge_lora else source


def recipe_config(recipe: Recipe, source: CheckpointConfig) -> CheckpointConfig:
    """What the checkpoint will be. Raises SetupError, before any work, for all that cannot be had of this model."""
    parallel = recipe.parallel
    config = quantized_config(source, recipe.quantization, tp_size=parallel.tp_size, pp_size=parallel.pp_size)
    check_max_seq_len(config, recipe.max_seq_len)
    for path in _texts(recipe):
        if not path.is_file():
            raise SetupError(
                f"{path}, a text that the recipe names, does not exist. Paths start at the recipe's folder."
            )
    if recipe.tensorrt_llm:  # Raises for settings that contradict each other or the checkpoint.
        engine_dir = recipe.tensorrt_llm_engine_dir
        tensorrt_llm_commands(config, recipe.tensorrt_llm, recipe.checkpoint_dir, engine_dir, recipe.max_seq_len)
    return config


def _texts(recipe: Recipe) -> list[Path]:
    calibrating = recipe.quantization.calibration.files if recipe.quantization.calibrated else []
    return [*calibrating, *(recipe.verification.text if isinstance(recipe.verification.text, list) else [])]


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


def _passed(verification: Path, keys: dict[str, Any]) -> bool:
    try:
        known = json.loads(_text(verification) or "{}")
        return bool(known["of"] == keys and known["report"]["passed"])
    except (ValueError, LookupError, TypeError):  # None yet, or somebody changed it: it is made again.
        return False


def _opens(checkpoint_dir: Path) -> bool:
    try:
        Checkpoint.open(checkpoint_dir)
    except SetupError:  # Somebody changed it; it is mended by making it again.
        return False
    return True

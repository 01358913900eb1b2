"""The model that the peer runs: the same checkpoint as the engine's, in the form that openvino-genai reads."""

from __future__ import annotations

from pathlib import Path

from build_engines.checkpoint.reader import Checkpoint
from perf.genai_ir import write_genai_model
from python_backend.engine.manifest import CpuManifest
from python_backend.errors import SetupError

CACHE_DIR = Path(".cache/openvino-genai")


def genai_model(engine_dir: Path, checkpoint_dir: Path) -> Path:
    """The folder of the model, made from the checkpoint at the first call for an engine.

    Raises SetupError when engine or checkpoint cannot be read, and when they do not belong together.
    """
    manifest = CpuManifest.load(engine_dir)
    if Checkpoint.open(checkpoint_dir).sha256() != manifest.checkpoint_sha256:
        raise SetupError(f"{engine_dir} was not made from {checkpoint_dir}. Name its checkpoint with --checkpoint-dir.")
    lm_head = "int8" if manifest.quantize_lm_head else "plain"
    model_dir = CACHE_DIR / f"{manifest.checkpoint_sha256[:12]}-{manifest.builder_sha256[:12]}-{lm_head}-lm-head"
    if not model_dir.exists():
        write_genai_model(checkpoint_dir, model_dir, quantize_lm_head=manifest.quantize_lm_head)
    return model_dir

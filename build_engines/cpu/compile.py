"""From a TensorRT-LLM checkpoint to a CPU engine: an OpenVINO model with paged attention, and what describes it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import openvino

from build_engines.checkpoint.config import CheckpointConfig
from build_engines.checkpoint.reader import Checkpoint
from build_engines.content_hash import builder_sha256
from build_engines.cpu.graph import build_paged_model
from build_engines.cpu.weights import DecoderWeights
from build_engines.publish import publishing
from build_engines.sources.special_tokens import SpecialTokens
from python_backend.engine.manifest import MANIFEST_FILE, MODEL_FILE, CpuManifest
from python_backend.errors import SetupError


def compile_cpu_engine(
    checkpoint_dir: Path,
    engine_dir: Path,
    *,
    max_seq_len: int | None = None,
    quantize_lm_head: bool | None = None,
    source_sha256: str | None = None,
    accuracy: Mapping[str, float] | None = None,
    made_by: str | None = None,
) -> bool:
    """Compile ``checkpoint_dir`` into ``engine_dir``, all or nothing. False when that has been done already.

    ``max_seq_len``: most tokens of prompt and output together, by default all positions of the model.
    ``quantize_lm_head``: INT8 for the lm_head and a tied embedding, by default when the layers are quantized. It is
    the largest matrix of a small model, and read whole for every token. With SmolLM2-135M on two busy AVX2 cores, the
    INT8, INT4 and AWQ engines decoded 1.2 to 1.7 times as fast with it at batch 1. It added 0.001 to 0.006 to the KL
    divergence from the FP16 engine, where INT8 layers alone are at 0.003, FP8 at 0.016 and NVFP4 at 0.220.
    ``source_sha256``, ``accuracy`` and ``made_by``, the command that makes the engine again, go into the manifest.
    Raises SetupError when the checkpoint cannot be read or compiled, or the engine cannot be written.
    """
    checkpoint = Checkpoint.open(checkpoint_dir)
    manifest = _manifest(checkpoint, max_seq_len, quantize_lm_head)
    if _is_built(engine_dir, manifest):
        return False
    weights = DecoderWeights(checkpoint, quantize_lm_head=manifest.quantize_lm_head)
    model = build_paged_model(weights, max_seq_len=manifest.max_seq_len)
    with publishing(engine_dir, known_by=MANIFEST_FILE) as draft:
        try:
            openvino.save_model(model, draft / MODEL_FILE, compress_to_fp16=False)
        except RuntimeError as error:  # All that OpenVINO says of a full disk is "iostream error".
            raise SetupError(f"{engine_dir / MODEL_FILE} cannot be written ({error}). Is the disk full?") from error
        for name in checkpoint.tokenizer_files:
            shutil.copyfile(checkpoint_dir / name, draft / name)
        sizes = {path.name: path.stat().st_size for path in sorted(draft.iterdir())}
        by_hand = shlex.join(["python", "-m", "build_engines", "compile-cpu", str(checkpoint_dir), str(engine_dir)])
        told = {"source_sha256": source_sha256, "accuracy": accuracy, "build_command": made_by or by_hand}
        complete = manifest.model_copy(update={"files": sizes, **told})
        (draft / MANIFEST_FILE).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return True


def check_max_seq_len(config: CheckpointConfig, max_seq_len: int | None) -> None:
    """Raises SetupError when the model has not as many positions."""
    limit = config.max_position_embeddings
    if max_seq_len is not None and not 0 < max_seq_len <= limit:
        raise SetupError(f"max_seq_len {max_seq_len} is not between 1 and the model's {limit} positions.")


def _manifest(checkpoint: Checkpoint, max_seq_len: int | None, quantize_lm_head: bool | None) -> CpuManifest:
    config = checkpoint.config
    limit = config.max_position_embeddings
    check_max_seq_len(config, max_seq_len)
    quant_algo = config.quantization.quant_algo
    tokens = SpecialTokens.read(checkpoint.directory)
    reduced = checkpoint.draft_vocabulary()
    return CpuManifest(
        architecture=config.architecture,
        dtype=config.dtype,
        quant_algo=quant_algo,
        kv_cache_quant_algo=config.quantization.kv_cache_quant_algo,
        tp_size=config.mapping.tp_size,
        pp_size=config.mapping.pp_size,
        quantize_lm_head=quant_algo is not None if quantize_lm_head is None else quantize_lm_head,
        draft_vocab_size=None if reduced is None else len(reduced),
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_size=config.head_size,
        max_position_embeddings=limit,
        max_seq_len=limit if max_seq_len is None else max_seq_len,
        bos_id=tokens.bos_id,
        end_id=tokens.end_id,
        pad_id=tokens.pad_id,
        checkpoint_sha256=checkpoint.sha256(),
        builder_sha256=builder_sha256("checkpoint", "quantization", "cpu"),
        openvino_version=openvino.__version__,
        created=datetime.now(UTC),
        files={},
    )


def _is_built(engine_dir: Path, wanted: CpuManifest) -> bool:
    try:
        built = CpuManifest.load(engine_dir)
    except SetupError:  # Missing, broken or of another format: all are mended by building it.
        return False
    told = {key: getattr(built, key) for key in ("created", "files", "source_sha256", "accuracy", "build_command")}
    return wanted.model_copy(update=told) == built

"""Quantized by us and sharded by our writer is, bit for bit, what ModelOpt exports for that many ranks itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from build_engines.checkpoint.config import Architecture, CheckpointConfig
from build_engines.checkpoint.reader import Checkpoint, rank_file
from build_engines.checkpoint.safetensors_file import SafetensorsFile
from build_engines.checkpoint.tensor_table import EMBEDDING, LM_HEAD, layer_tensor
from build_engines.checkpoint.writer import write_checkpoint
from build_engines.quantization import quantize
from build_engines.quantization.calibration import calibration_samples
from build_engines.quantization.captured_output import captured_output
from build_engines.quantization.linear import read_linear
from build_engines.quantization.quantize import quantized_config, quantized_tensors
from build_engines.quantization.settings import Format, QuantizationSettings
from build_engines.quantization.transformers_model import transformers_model
from python_backend.errors import SetupError
from tests import tiny_models
from tests.unit.build_engines.quantization.tiny_source import TinySource

with captured_output():  # Importing it warns.
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_tensorrt_llm_checkpoint
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    from build_engines.quantization import modelopt_export
    from build_engines.quantization.modelopt_export import modelopt_config

DECODERS: dict[Architecture, str] = {
    "Qwen2ForCausalLM": "qwen",
    "Qwen3ForCausalLM": "qwen",
    "GemmaForCausalLM": "gemma",
}
MAPPINGS = [(1, 1), (2, 1), (1, 2), (2, 2)]
TEXT = "the quick brown fox jumps over the lazy dog while seven wizards quietly judge my quartz vow, " * 8


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors are so small that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings(folder: Path, format: Format = "none", **keys: object) -> QuantizationSettings:
    (folder / "text.txt").write_text(TEXT)
    calibration = {"files": [folder / "text.txt"], "max_tokens": 32, "batch_size": 3}
    groups = {"group_size": 32} if format in ("int4_awq", "w4a8_awq") else {}
    return QuantizationSettings.model_validate({"format": format, "calibration": calibration, **groups, **keys})


def build(folder: Path, source: TinySource, of: QuantizationSettings, tp_size: int = 1, pp_size: int = 1) -> Checkpoint:
    config = quantized_config(source.config, of, tp_size=tp_size, pp_size=pp_size)
    directory = folder / f"tp{tp_size}pp{pp_size}"
    with quantized_tensors(source, config, of, workplace=folder) as tensor:
        write_checkpoint(directory, config, tensor, source.files)
    return Checkpoint.open(directory)


class Oracle:
    """ModelOpt used as its documentation says, on the same model, text and settings."""

    def __init__(self, source: TinySource, of: QuantizationSettings, preset: dict[str, Any] | None = None) -> None:
        self._decoder = DECODERS.get(source.config.architecture, "llama")
        self.model = transformers_model(source.config, source.tensor)
        samples = torch.from_numpy(
            calibration_samples(of, source.config, source.files["tokenizer.json"], lambda notice: None)
        )

        def forward_loop(model: Any) -> None:
            with torch.no_grad():
                for begin in range(0, len(samples), of.calibration.batch_size):
                    model(samples[begin : begin + of.calibration.batch_size])

        with captured_output():
            mtq.quantize(self.model, preset or modelopt_config(of), forward_loop)

    def export(self, directory: Path, tp_size: int = 1, pp_size: int = 1) -> list[SafetensorsFile]:
        """The files of all ranks."""
        model = copy.deepcopy(self.model)  # Exporting changes it.
        with torch.inference_mode(), captured_output():
            export_tensorrt_llm_checkpoint(
                model,
                self._decoder,
                torch.bfloat16,
                export_dir=directory,
                inference_tensor_parallel=tp_size,
                inference_pipeline_parallel=pp_size,
            )
        return [SafetensorsFile(directory / rank_file(rank)) for rank in range(tp_size * pp_size)]

    def linear(self, name: str) -> Any:
        """The first layer's q_proj, o_proj or down_proj, as quantized."""
        return self.model.get_submodule(f"model.layers.0.{name}")


def differences(ours: SafetensorsFile, theirs: SafetensorsFile, first_stage: SafetensorsFile) -> list[str]:
    """The tensors that are not equal in name, type and bits."""
    known = [name for name in theirs.tensors if ".k_cache_" not in name and ".v_cache_" not in name]
    found = [name for name in known if name not in ours.tensors]
    for name in ours.tensors:
        if name == LM_HEAD and name not in theirs.tensors:  # Gemma's is tied.
            expected = first_stage.tensor(EMBEDDING)
        elif name in theirs.tensors:
            expected = theirs.tensor(name)
        else:
            found.append(name)
            continue
        got = ours.tensor(name)
        shape = expected.shape or (1,)
        if (got.dtype, got.shape, got.tobytes()) != (expected.dtype, shape, expected.tobytes()):
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("architecture", "format"),
    [(architecture, "fp8") for architecture in tiny_models.ARCHITECTURES]
    + [(architecture, "int4_awq") for architecture in tiny_models.ARCHITECTURES]
    # Whose heads are shared by ranks, and whose single key/value head is repeated.
    + [(a, f) for a in ("LlamaForCausalLM", "GemmaForCausalLM") for f in ("none", "int8_sq", "w4a8_awq", "nvfp4")],
)
def test_shards_equal_modelopts_own(tmp_path: Path, architecture: Architecture, format: Format) -> None:
    source = TinySource(tiny_models.config(architecture, dtype="bfloat16"))
    of = settings(tmp_path, format, kv_cache="int8" if format == "int8_sq" else "fp8")
    oracle = Oracle(source, of)
    config = quantized_config(source.config, of)
    with quantized_tensors(source, config, of, workplace=tmp_path) as tensor:
        for tp_size, pp_size in MAPPINGS:
            here, there = tmp_path / f"ours-{tp_size}-{pp_size}", tmp_path / f"theirs-{tp_size}-{pp_size}"
            write_checkpoint(here, quantized_config(source.config, of, tp_size=tp_size, pp_size=pp_size), tensor, {})
            if format == "int8_sq" and tp_size > source.config.num_key_value_heads:
                with pytest.raises(NotImplementedError, match="Duplicating KV heads"):
                    oracle.export(there, tp_size, pp_size)
                continue
            theirs = oracle.export(there, tp_size, pp_size)
            for rank, file in enumerate(theirs):
                ours = SafetensorsFile(here / rank_file(rank))
                assert differences(ours, file, theirs[rank % tp_size]) == []
    assert not list(tmp_path.glob("modelopt-*"))


def test_grouped_int4_equals_modelopts_and_has_the_missing_scales(tmp_path: Path) -> None:
    source = TinySource(tiny_models.config("LlamaForCausalLM", dtype="bfloat16"))
    of = settings(tmp_path, "int4_wo", group_size=32)
    preset = copy.deepcopy(mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG)
    for rule in preset["quant_cfg"]:
        if rule["quantizer_name"] == "*weight_quantizer":
            rule["cfg"]["block_sizes"][-1] = 32
    oracle = Oracle(source, of, preset)
    for tp_size, pp_size in MAPPINGS:
        checkpoint = build(tmp_path, source, of, tp_size, pp_size)
        theirs = oracle.export(tmp_path / f"theirs-{tp_size}-{pp_size}", tp_size, pp_size)
        for ours, file in zip(checkpoint.ranks, theirs, strict=True):
            found = differences(ours, file, theirs[0])
            assert {name.rpartition(".")[2] for name in found} == {"prequant_scaling_factor"}
            assert all((ours.tensor(name) == 1).all() for name in found)


@pytest.mark.parametrize("format", ["int8_wo", "int4_wo"])
def test_weight_only_checkpoints_hold_the_plain_weights(tmp_path: Path, format: Format) -> None:
    source = TinySource(tiny_models.config("Qwen2ForCausalLM"))
    plain, kept = (
        build(tmp_path / "none", source, settings(tmp_path)),
        build(tmp_path, source, settings(tmp_path, format)),
    )
    assert kept.config.quantization.quant_algo == {"int8_wo": "W8A16", "int4_wo": "W4A16"}[format]
    assert all(kept.tensor(name).tobytes() == plain.tensor(name).tobytes() for name in plain.table)


@pytest.mark.parametrize("group_size", [None, 32])
def test_weight_only_with_a_quantized_kv_cache(tmp_path: Path, group_size: int | None) -> None:
    source = TinySource(tiny_models.config("LlamaForCausalLM"))
    of = settings(tmp_path, "int4_wo", group_size=group_size, kv_cache="int8")
    made = build(tmp_path, source, of, 2, 2)
    same = build(tmp_path / "plain", source, settings(tmp_path, "int4_wo", group_size=group_size), 2, 2)
    assert all(made.tensor(name).tobytes() == same.tensor(name).tobytes() for name in same.table)
    scales = [made.tensor(layer_tensor(layer, "attention.kv_cache_scaling_factor")) for layer in range(2)]
    assert (np.array(scales) > 0).all()
    assert len(set(made.table) - set(same.table)) == 2


@pytest.mark.parametrize("format", ["fp8", "int8_sq", "int4_awq", "w4a8_awq"])
def test_read_linear_gives_modelopts_fake_quantized_weight(tmp_path: Path, format: Format) -> None:
    """dense and proj: what is fused (q, k and v; fc and gate) shares scales in the export only.

    ModelOpt cannot fake-quantize NVFP4 on a CPU; the next test compares with its own dequantize instead.
    """
    source = TinySource(tiny_models.config("LlamaForCausalLM", dtype="bfloat16"))
    of = settings(tmp_path, format)
    oracle = Oracle(source, of)
    checkpoint = build(tmp_path, source, of, 2, 2)
    for ours, theirs in {"attention.dense": "self_attn.o_proj", "mlp.proj": "mlp.down_proj"}.items():
        module = oracle.linear(theirs)
        quantizer = module.weight_quantizer[0] if format == "w4a8_awq" else module.weight_quantizer
        expected = quantizer(module.weight).detach().numpy()
        linear = read_linear(checkpoint.tensor, checkpoint.config.quantization, layer_tensor(0, ours))
        np.testing.assert_allclose(linear.weight.dequantize(), expected, rtol=2e-6, atol=1e-8)


def test_nvfp4_codes_are_read_as_modelopt_reads_them(tmp_path: Path) -> None:
    source = TinySource(tiny_models.config("LlamaForCausalLM", dtype="bfloat16"))
    checkpoint = build(tmp_path, source, settings(tmp_path, "nvfp4"))
    name = layer_tensor(1, "mlp.fc")
    codes, blocks, scale = (
        checkpoint.tensor(f"{name}.{x}") for x in ("weight", "weights_scaling_factor", "weights_scaling_factor_2")
    )
    assert set(np.unique(np.stack([codes & 15, codes >> 4]))) == set(range(16)) - {8} or len(np.unique(codes)) > 100
    stored = NVFP4QTensor(
        torch.Size((codes.shape[0], codes.shape[1] * 2)), torch.float32, torch.from_numpy(codes.copy())
    )
    expected = stored.dequantize(
        dtype=torch.float32,
        scale=torch.from_numpy(blocks.view(np.uint8).copy()).view(torch.float8_e4m3fn),
        double_scale=torch.from_numpy(scale.copy()),
        block_sizes={-1: 16},
    )
    linear = read_linear(checkpoint.tensor, checkpoint.config.quantization, name)
    assert np.array_equal(linear.weight.dequantize(), expected.numpy())


def test_awqs_padded_vocabulary_is_cut_back(tmp_path: Path) -> None:
    source = TinySource(tiny_models.config("MistralForCausalLM", dtype="bfloat16", vocab_size=330))
    made = build(tmp_path, source, settings(tmp_path, "int4_awq"), 2, 1)
    plain = build(tmp_path / "none", source, settings(tmp_path), 2, 1)
    for name in (EMBEDDING, LM_HEAD):
        assert made.tensor(name).shape == (330, 64)
        assert made.tensor(name).tobytes() == plain.tensor(name).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_prequant_scales_have_the_checkpoints_dtype(tmp_path: Path, dtype: Any) -> None:
    source = TinySource(tiny_models.config("LlamaForCausalLM"))
    made = build(tmp_path, source, settings(tmp_path, "int8_sq", dtype=dtype))
    assert made.tensor(layer_tensor(0, "mlp.proj.prequant_scaling_factor")).dtype.name == dtype


def test_kv_patterns_of_tensorrt_llms_script_are_noticed_as_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ignored(of: QuantizationSettings) -> dict[str, Any]:
        config = modelopt_config(of)
        rule = config["quant_cfg"].pop()
        config["quant_cfg"] += [{**rule, "quantizer_name": f"*.{x}_proj.output_quantizer"} for x in "kv"]
        return config

    monkeypatch.setattr(modelopt_export, "modelopt_config", ignored)
    source = TinySource(tiny_models.config("LlamaForCausalLM"))
    with pytest.raises(SetupError, match=r"did not quantize the KV cache.*kv_cache_scaling_factor"):
        build(tmp_path, source, settings(tmp_path, "int8_sq", kv_cache="int8"))


def test_what_one_gpu_cannot_hold_is_refused_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (10_000, 20_000))
    source = TinySource(tiny_models.config("LlamaForCausalLM"))
    with pytest.raises(SetupError, match=r"one GPU, which has 0\.0 GB free; the weights .* CUDA_VISIBLE_DEVICES="):
        build(tmp_path, source, settings(tmp_path, "fp8"))


def test_nothing_reaches_the_terminal_but_notices_and_progress(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = TinySource(tiny_models.config("LlamaForCausalLM"))
    of = settings(tmp_path, "fp8")
    reports: list[tuple[int, int, str]] = []
    config = quantized_config(source.config, of)
    with quantized_tensors(source, config, of, workplace=tmp_path, report=lambda *x: reports.append(x)) as tensor:
        tensor(EMBEDDING)
    assert capfd.readouterr() == ("", "")
    whats = [what for _, _, what in reports]
    assert (whats[0], whats[-1]) == ("load the model", "export")
    passes = [(done, total) for done, total, what in reports if what == "calibrate, pass 1"]
    total = passes[0][1]
    assert passes == [(done, total) for done in [*range(0, total, 3), total]]


@pytest.mark.parametrize("error", [NotImplementedError("no such layer"), SafetensorError("No space left on device")])
def test_modelopts_failures_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: object) -> None:
        print("what ModelOpt says before")
        raise error

    monkeypatch.setattr(mtq, "quantize", fail)
    source = TinySource(tiny_models.config("LlamaForCausalLM"))
    message = rf"ModelOpt could not make fp8\. {type(error).__name__}: {error}\nwhat ModelOpt says before"
    with pytest.raises(SetupError, match=message):
        build(tmp_path, source, settings(tmp_path, "fp8"))
    assert not list(tmp_path.glob("modelopt-*"))


@pytest.mark.parametrize(("package", "found"), [("nvidia-modelopt", None), ("transformers", "5.1.0")])
def test_missing_or_other_packages_are_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, found: str | None
) -> None:
    def other(name: str) -> str:
        if name != package:
            return version(name)
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(quantize, "version", other)
    source = TinySource(tiny_models.config("LlamaForCausalLM"))
    with pytest.raises(SetupError, match=rf"format fp8 needs {package} .*{found or 'not installed'}.*make quantize"):
        build(tmp_path, source, settings(tmp_path, "fp8"))
    with pytest.raises(SetupError, match=f"kv_cache fp8 needs {package}"):
        build(tmp_path, source, settings(tmp_path, "int8_wo", kv_cache="fp8"))
    assert build(tmp_path, source, settings(tmp_path, "int8_wo")).config.quantization.quant_algo == "W8A16"


def test_a_model_without_tokenizer_cannot_be_calibrated(tmp_path: Path) -> None:
    source = TinySource(tiny_models.config("LlamaForCausalLM"), files={})
    config: CheckpointConfig = quantized_config(source.config, settings(tmp_path, "fp8"))
    with (
        pytest.raises(SetupError, match=r"calibration needs tokenizer\.json"),
        quantized_tensors(source, config, settings(tmp_path, "fp8"), workplace=tmp_path),
    ):
        raise AssertionError

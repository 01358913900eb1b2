"""Files are those of the safetensors library, in both directions."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engines.checkpoint.safetensors_file import SafetensorsFile, SafetensorsWriter, TensorType
from python_backend.errors import SetupError

TENSORS = {
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "brain": np.arange(4).astype(ml_dtypes.bfloat16),
    "eighth": np.array([[0.5, -448.0]]).astype(ml_dtypes.float8_e4m3fn),
    "odd": np.array([-1, 0, 1], np.int8),
    "integers": np.array([[-8], [7]], np.int8),
    "scalar": np.array(3.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
}


def write(path: Path) -> Path:
    with SafetensorsWriter(path, {n: TensorType(t.dtype, t.shape) for n, t in TENSORS.items()}) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
    return path


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    theirs = load_file(write(tmp_path / "a.safetensors"))
    assert set(theirs) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert np.array_equal(theirs[name].to(torch.float32).numpy(), tensor.astype(np.float32))
        assert theirs[name].dtype.itemsize == tensor.dtype.itemsize


def test_what_the_library_wrote_is_read(tmp_path: Path) -> None:
    theirs = {
        "brain": torch.arange(6).reshape(2, 3).to(torch.bfloat16),
        "eighth": torch.tensor([0.5, -448.0]).to(torch.float8_e4m3fn),
        "whole": torch.tensor([[1, 2]], dtype=torch.int64),
    }
    save_file(theirs, tmp_path / "a.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "a.safetensors")
    assert set(file.tensors) == set(theirs)
    for name, tensor in theirs.items():
        assert np.array_equal(file.tensor(name).astype(np.float32), tensor.to(torch.float32).numpy())
    assert str(file.tensors["brain"]) == "BF16 [2, 3]"


def test_tensors_cannot_be_changed(tmp_path: Path) -> None:
    tensor = SafetensorsFile(write(tmp_path / "a.safetensors")).tensor("half")
    with pytest.raises(ValueError, match="read-only"):
        tensor[0] = 1


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SetupError, match=r"a\.safetensors cannot be read"):
        SafetensorsFile(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"none\.safetensors cannot be read"):
        SafetensorsFile(tmp_path / "none.safetensors")


def test_an_unknown_type_is_named(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "a.safetensors")
    with pytest.raises(SetupError, match='tensor "x" is C64, which is not supported'):
        SafetensorsFile(tmp_path / "a.safetensors")

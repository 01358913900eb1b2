"""`preprocessing`: text in, token ids out."""

from python_backend.triton.preprocessing import TritonPythonModel

__all__ = ["TritonPythonModel"]

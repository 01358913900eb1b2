"""`postprocessing`: token ids in, text out."""

from python_backend.triton.postprocessing import TritonPythonModel

__all__ = ["TritonPythonModel"]

"""`tensorrt_llm_bls`: text in, text out, with drafts ahead of the target and an eye on the client."""

from python_backend.triton.tensorrt_llm_bls import TritonPythonModel

__all__ = ["TritonPythonModel"]

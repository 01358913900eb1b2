"""`tensorrt_llm_draft`: a small engine that drafts, on the CPU engine. TensorRT-LLM itself needs no model.py."""

from python_backend.triton.tensorrt_llm import TritonPythonModel

__all__ = ["TritonPythonModel"]

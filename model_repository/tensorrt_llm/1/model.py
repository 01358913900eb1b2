"""`tensorrt_llm`: the engine step on the CPU engine. TensorRT-LLM itself is a C++ backend and needs no model.py."""

from python_backend.triton.tensorrt_llm import TritonPythonModel

__all__ = ["TritonPythonModel"]

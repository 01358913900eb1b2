"""Offline: from a GGUF model to a TensorRT-LLM checkpoint, and from that to an engine."""

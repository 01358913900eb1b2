"""Tensors in, tensors out: the only folder that knows Triton's Python API."""

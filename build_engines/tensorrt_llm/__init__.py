"""From a TensorRT-LLM checkpoint to engines for NVIDIA GPUs, by ``trtllm-build`` in NVIDIA's image.

Nothing here has run on a GPU so far. Command lines are checked against ``flags``, a table made from the sources and
documents of TensorRT-LLM 1.2; the runner is exercised with a small executable that stands in for ``trtllm-build``.
"""

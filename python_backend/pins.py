"""The versions that Slipstream is made for. Where a file must repeat one, a test compares."""

from __future__ import annotations

# The last image with both `trtllm-build` and the C++ backend that runs compiled engines.
TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
TENSORRT_LLM = "1.2.1"
# What NVIDIA's compatibility matrix names beside that image (CUDA 13.1).
NVIDIA_DRIVER = "590.44.01"

# The real tritonserver 2.51 for machines without a GPU. Its stub aborts on numpy 2, and numpy 1 ends at Python 3.12;
# the project itself begins at 3.11.
PYTRITON = "0.7.0"
OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 12)
NUMPY_BELOW = 2

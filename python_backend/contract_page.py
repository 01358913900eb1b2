"""The contract as a page to read: ``docs/contract.md`` is what this prints."""

from __future__ import annotations

from collections.abc import Iterator

from python_backend.contract import MODELS, Model, Tensor

_HEAD = """# The contract

Every tensor of every model, from `python_backend/contract.py` (`python -m python_backend contract` prints this page).
Names, types, dims and meaning are those of TensorRT-LLM 1.2. Dims leave out the batch dimension: `[1]` is `[batch, 1]`
on the wire, -1 any length. Tensors marked + are Slipstream's own and exist in the profiles of the CPU engine only;
those marked ++ exist in all profiles.
"""


def contract_page() -> str:
    """All models, in Markdown."""
    return "\n".join([_HEAD, *(line for model in MODELS.values() for line in _model(model))])


def _model(model: Model) -> Iterator[str]:
    yield f"## {model.name}\n"
    if model.name == "tensorrt_llm_draft":
        yield "As `tensorrt_llm`: a second, smaller engine with the same contract.\n"
        return
    yield "| input | type | dims | required | default | meaning |\n|---|---|---|---|---|---|"
    for tensor in model.inputs:
        required, default = ("yes", "") if tensor.required else ("", tensor.default)
        yield f"| {_name(tensor)} | {_type(tensor)} | {required} | {default} | {tensor.meaning} |"
    yield "\n| output | type | dims | meaning |\n|---|---|---|---|"
    for tensor in model.outputs:
        yield f"| {_name(tensor)} | {_type(tensor)} | {tensor.meaning} |"
    yield ""


def _name(tensor: Tensor) -> str:
    mark = "" if not tensor.added else " +" if tensor.needs_our_engine else " ++"
    return f"`{tensor.name}`{mark}"


def _type(tensor: Tensor) -> str:
    return f"{tensor.dtype.name} | {list(tensor.dims)}"

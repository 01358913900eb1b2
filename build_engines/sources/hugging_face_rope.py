"""Rotary embeddings as ``config.json`` of a Hugging Face model tells them.

transformers 4 writes ``rope_theta`` and ``rope_scaling``, transformers 5 one object, ``rope_parameters``. A reader that
knows one of the forms only takes the other for the defaults, and the model talks nonsense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from build_engines.checkpoint.config import Architecture, LinearScaling, Llama3Scaling, RotaryScaling
from python_backend.engine.manifest import first_problem

#: Architectures of which models were published without rope_theta, all of them made with this base ...
UNSAID_BASE = 10_000.0
#: ... and the most positions that such a model has. Llama 3 has more, and another base.
_UNSAID_POSITIONS: dict[Architecture, int] = {"LlamaForCausalLM": 4096, "GemmaForCausalLM": 8192}
_NEUTRAL: dict[str, tuple[object, ...]] = {"partial_rotary_factor": (None, 1.0), "attention_factor": (None, 1.0)}


@dataclass(frozen=True, slots=True)
class Rope:
    """``notice`` says what was assumed, if anything was."""

    base: float
    scaling: RotaryScaling | None
    notice: str | None = None


def read_rope(raw: Mapping[str, Any], architecture: Architecture) -> Rope:
    """From all of ``config.json``. Raises ValueError that names the key and what is wrong with it."""
    parameters, scaling = (_object(raw, key) for key in ("rope_parameters", "rope_scaling"))
    bases = [given for given in (raw.get("rope_theta"), parameters.pop("rope_theta", None)) if given is not None]
    for base in bases:
        if isinstance(base, bool) or not isinstance(base, int | float) or base <= 0:
            raise ValueError(f"rope_theta is {base!r}; it must be a number above 0")
    scaling.pop("rope_theta", None)
    both = {"rope_parameters": parameters, "rope_scaling": scaling}
    scalings = {_scaling(key, given) for key, given in both.items() if given}
    if len(set(map(float, bases))) > 1 or len(scalings) > 1:
        raise ValueError(
            f"rope_parameters {raw['rope_parameters']} contradicts rope_theta {raw.get('rope_theta')} "
            f"and rope_scaling {raw.get('rope_scaling')}"
        )
    found = scalings.pop() if scalings else None
    if bases:
        return Rope(float(bases[0]), found)
    positions = raw.get("max_position_embeddings")
    most = _UNSAID_POSITIONS.get(architecture, 0)
    if found or not isinstance(positions, int) or positions > most:
        raise ValueError(
            'key "rope_theta" is missing, and "rope_parameters" (where transformers 5 puts it) has none; '
            "add the model's, as its authors published it"
        )
    return Rope(UNSAID_BASE, None, f"config.json has no rope_theta; {UNSAID_BASE:g} is used, as by transformers.")


def _object(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    given = raw.get(key)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ValueError(f"{key} is {given!r}, not an object")
    return dict(given)


def _scaling(key: str, given: dict[str, Any]) -> RotaryScaling | None:
    rope_type, legacy_type = given.pop("rope_type", None), given.pop("type", None)
    if rope_type and legacy_type and rope_type != legacy_type:
        raise ValueError(f"{key} has both rope_type {rope_type!r} and type {legacy_type!r}")
    for name, neutral in _NEUTRAL.items():
        if (value := given.pop(name, None)) not in neutral:
            raise ValueError(f"{key}.{name} is {value!r}; only {neutral[-1]!r} can be computed")
    named = rope_type or legacy_type or "default"
    try:
        match named:
            case "default" if not given:
                return None
            case "linear":
                return LinearScaling.model_validate(given)
            case "llama3":
                return Llama3Scaling.model_validate(given)
    except ValidationError as error:
        kind = LinearScaling if named == "linear" else Llama3Scaling
        raise ValueError(f"{key} (rope_type {named}): {first_problem(error, kind)}") from error
    if named == "default":
        raise ValueError(f"{key} has {', '.join(map(repr, given))} and no rope_type that would use it")
    raise ValueError(f"{key}: rope_type is {named!r}; those that can be computed are default, linear and llama3")

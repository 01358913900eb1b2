"""The chat form of SmolLM2-Instruct, the demo model, for servers that take plain text only."""

from __future__ import annotations

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def chatml(prompt: str, system: str = SYSTEM) -> str:
    """One user turn and the opening of the answer, as the model's own chat template writes them."""
    return f"{_turn('system', system)}{_turn('user', prompt)}<|im_start|>assistant\n"


def _turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"

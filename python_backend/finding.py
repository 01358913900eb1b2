"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw and, when that keeps the server from starting, what to do about it."""

    check: str
    seen: str
    remedy: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the server can start as far as this check knows."""
        return self.remedy is None

    def __str__(self) -> str:
        if self.remedy is None:
            return f"{self.check}: {self.seen}"
        return f"{self.check}: {self.seen}{'' if self.seen.endswith(('.', '?')) else '.'} {self.remedy}"

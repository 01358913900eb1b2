"""The gauges on /metrics that say whether the engine is idle."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import dataclass

_ACTIVE = re.compile(r'^nv_trt_llm_request_metrics\{[^}]*request_type="active"[^}]*\} (\S+)$', re.MULTILINE)
_USED = re.compile(r'^nv_trt_llm_kv_cache_block_metrics\{[^}]*kv_cache_block_type="used"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Load:
    """What all engines of a server hold: requests that wait or run, and blocks of the KV cache that somebody uses."""

    active_requests: int
    used_blocks: int

    @property
    def is_idle(self) -> bool:
        """Nothing is left of any request."""
        return self.active_requests == 0 and self.used_blocks == 0


def parse(exposition: str) -> Load:
    """The gauges in Prometheus text. ValueError when they are not there: then the server runs no engine of ours."""
    active, used = _ACTIVE.findall(exposition), _USED.findall(exposition)
    if not active or not used:
        raise ValueError("/metrics has no nv_trt_llm_request_metrics or no nv_trt_llm_kv_cache_block_metrics.")
    return Load(round(sum(map(float, active))), round(sum(map(float, used))))


def fetch(metrics_url: str) -> Load:
    """The gauges now; an OSError (URLError) when nobody answers."""
    with urllib.request.urlopen(metrics_url, timeout=5.0) as answer:
        return parse(answer.read().decode())

"""Compiled guides for requests, where the tokenizer allows any."""

from __future__ import annotations

import logging
from pathlib import Path

from python_backend.engine.guided import Guide, GuideCompiler, GuideMatcher
from python_backend.errors import SetupError, Unsupported

log = logging.getLogger(__name__)


class GuideSource:
    """Starts guides. A tokenizer that guided decoding cannot use is no reason not to serve its model without."""

    def __init__(self, tokenizer_dir: Path, vocab_size: int, end_id: int) -> None:
        self._compiler: GuideCompiler | None = None
        self._reason = ""
        try:
            self._compiler = GuideCompiler.load(tokenizer_dir, vocab_size, end_id)
        except SetupError as error:
            self._reason = str(error)
            log.warning("guided decoding is off: %s", error)

    def start(self, guide: Guide, end_id: int | None) -> GuideMatcher:
        """A matcher for one sequence.

        Raises InvalidRequest for a guide that cannot be used, and Unsupported when none can with this tokenizer.
        """
        if self._compiler is None:
            raise Unsupported(f"guided_decoding_guide_type is not available for this model: {self._reason}")
        return self._compiler.compile(guide).start(end_id)

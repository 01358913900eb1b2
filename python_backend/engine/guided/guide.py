"""What a request may ask its output to look like, under TensorRT-LLM's names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from python_backend.errors import InvalidRequest, did_you_mean

#: Compiling takes time and memory in proportion; schemas that people write have a few KB.
MAX_GUIDE_BYTES = 128 * 1024


class GuideType(Enum):
    """TensorRT-LLM: executor::GuidedDecodingParams::GuideType, but for structural tags."""

    JSON = "json"  #: any JSON object or array, as with TensorRT-LLM
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    EBNF_GRAMMAR = "ebnf_grammar"


@dataclass(frozen=True, slots=True)
class Guide:
    """Equal guides compile to the same thing. ``text`` is the schema, expression or grammar; empty for JSON."""

    type: GuideType
    text: str = ""

    @classmethod
    def parse(cls, guide_type: str | None, text: str | None) -> Guide | None:
        """From guided_decoding_guide_type and guided_decoding_guide; None when neither is there.

        Raises InvalidRequest when the type is unknown, when one of the two is missing, or the text too long.
        """
        if not guide_type:
            if text:
                raise InvalidRequest(
                    "guided_decoding_guide is there without guided_decoding_guide_type. "
                    f"Send one of {_known()} with it, or leave both out."
                )
            return None
        try:
            kind = GuideType(guide_type)
        except ValueError:
            known = [known.value for known in GuideType]
            raise InvalidRequest(
                f'guided_decoding_guide_type is "{guide_type}"{did_you_mean(guide_type, known)}; '
                f"it is one of {_known()}."
            ) from None
        if kind is GuideType.JSON and text:
            raise InvalidRequest(
                'guided_decoding_guide_type "json" takes no guided_decoding_guide: any object or array will do. '
                'Leave the guide out, or send it as "json_schema".'
            )
        if kind is not GuideType.JSON and not text:
            raise InvalidRequest(f'guided_decoding_guide_type "{guide_type}" needs a guided_decoding_guide. Send one.')
        size_bytes = len((text or "").encode(errors="replace"))
        if size_bytes > MAX_GUIDE_BYTES:
            raise InvalidRequest(
                f"guided_decoding_guide has {size_bytes} bytes; at most {MAX_GUIDE_BYTES} are taken. Simplify it."
            )
        return cls(kind, text or "")


def _known() -> str:
    return ", ".join(known.value for known in GuideType)

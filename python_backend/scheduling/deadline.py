"""What a client is told when its time is up.

A request that has tokens to show ends as if it had been cancelled at that moment: the client keeps the text so far,
with the finish reason "cancelled", since it asked for what can be had in that time. One that has none is refused with
this error, as it would be by a full queue: there is nothing to keep, and trying again later may help.
"""

from __future__ import annotations

from python_backend.errors import Overloaded
from python_backend.scheduling.sequence import Sequence


def timeout_error(sequence: Sequence) -> Overloaded:
    """Why a sequence whose deadline has passed ended as it did, with the figures."""
    assert sequence.timeout_s is not None, f"{sequence} may take any time"
    if sequence.output:
        where = f"after {len(sequence.output)} of {sequence.max_new_tokens} tokens"
    elif sequence.first_scheduled_s is not None:
        where = f"before the first token, while the {sequence.prompt_tokens} tokens of the prompt were computed"
    else:
        where = "while the request waited to be scheduled"
    return Overloaded(
        f"timeout {sequence.timeout_s * 1000:.0f} ms passed {where}. "
        "Allow more time, ask for less, or try again when the load is lower."
    )

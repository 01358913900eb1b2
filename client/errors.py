"""What can go wrong between a client and the server.

    SlipstreamClientError
    ├── RequestRefused       the server answered no: change the request
    ├── ServerUnavailable    nobody answers, or the server takes no request now: try again later
    ├── StreamBroken         the answer began, but its end never came
    └── Timeout              the answer was not complete in time

    try:
        completion = client.generate(request)
    except ServerUnavailable:
        ...  # wait, then try again
    except SlipstreamClientError as error:
        print(error)

Bad arguments raise ValueError before anything is sent.
"""

from __future__ import annotations


class SlipstreamClientError(Exception):
    """Base of every error that a client raises about the server or the way to it."""


class RequestRefused(SlipstreamClientError):
    """The server refused the request; ``code`` is its status, such as ``INVALID_ARGUMENT`` or ``400``."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class ServerUnavailable(SlipstreamClientError):
    """No server answers at the address, or it takes no requests now (not ready, overloaded)."""


class StreamBroken(SlipstreamClientError):
    """The answer ended early: the engine failed, the server went away, or what came was no answer."""


class Timeout(SlipstreamClientError):
    """The answer was not complete within the request's ``timeout_s``."""

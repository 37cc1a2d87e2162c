"""What can go wrong between a client and the server, in kinds that a caller can act on, and in words."""

from __future__ import annotations

import httpx
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError

from common.protocol.wire import REFUSED_HEADER


class UnreachableError(ConnectionError):
    """No answer from the server, or only a passing error: try again later."""


class UnknownNodeError(ConnectionError):
    """The server does not know this node (any more): connect anew."""


class AccessDeniedError(Exception):
    """The server does not let this client in: its key is unknown or revoked, or it asked for too much."""


class RunEndedError(Exception):
    """The run that a message belongs to has ended: the message is void."""


class RequestRefusedError(Exception):
    """The server answered, and will not do what was asked, now or later."""


class translated_errors:
    """Turns errors of HTTP and of Flower into the kinds that a caller can act on."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        match error:
            case httpx.HTTPStatusError(response=response):
                match response.status_code:
                    case 403 if REFUSED_HEADER.decode() in response.headers:
                        raise AccessDeniedError(_detail(response)) from error
                    case 401:
                        raise UnknownNodeError(
                            "the server does not know this node, or the clocks differ by minutes"
                        ) from error
                    case 403:
                        raise RunEndedError from error
                    case 429 | 500 | 502 | 503 | 504:
                        said = f"the server answered {response.status_code} {_detail(response)}"
                        raise UnreachableError(said.strip()) from error
                    case _:
                        raise RequestRefusedError(f"{response.status_code}: {response.text[:200]}") from error
            case httpx.TransportError():
                raise UnreachableError(_in_words(error)) from error
            case ObjectPullError() | ObjectPushError():
                raise UnreachableError(str(error)) from error
            case ValueError():
                raise UnreachableError(f"the answer is not Flower's: {error}") from error


TLS_IN_WORDS = {
    "certificate has expired": "the server's certificate has expired",
    "not yet valid": "the server's certificate is not valid yet, or this machine's clock is behind",
    "unable to get local issuer": "the server's certificate is from another CA than client.tls_ca",
    "self-signed certificate": "the server's certificate is from another CA than client.tls_ca",
    "signature failure": "the server's certificate is from another CA than client.tls_ca",
    "mismatch": "the server's certificate is for other names than this one",
    "WRONG_VERSION_NUMBER": "the server speaks plain HTTP, and this client TLS: unset client.tls_ca, or set "
    "server.tls_certificate",
}
"""What went wrong, by a part of how OpenSSL calls it."""


def _in_words(error: httpx.TransportError) -> str:
    """A failure of the connection, with what is known of its cause."""
    said = str(error) or type(error).__name__
    for part, words in TLS_IN_WORDS.items():
        if part in said:
            return f"{words} ({said})"
    if isinstance(error, httpx.ProtocolError | httpx.ReadError):
        return f"{said}; a server that speaks TLS does this to plain HTTP: set client.tls_ca and client.key"
    return said


def _detail(response: httpx.Response) -> str:
    """The reason that an answer gives; empty if it gives none."""
    error = FlowerError.from_json(response.text)
    return str(error.message) if error is not None else ""

"""Errors between a client and the server, one class for each reaction of the caller."""

from __future__ import annotations

import httpx
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError

from common.protocol.wire import REFUSED_HEADER


class UnreachableError(ConnectionError):
    """The server did not answer, or answered with a temporary error: try again later."""


class UnknownNodeError(ConnectionError):
    """The server does not know this node, or no longer: register again."""


class AccessDeniedError(Exception):
    """The gateway refuses this client: its key is unknown or revoked, or the request is not allowed."""


class RunEndedError(Exception):
    """The run of a message has ended: drop the message."""


class RequestRefusedError(Exception):
    """The server refuses the request: do not repeat it."""


class translated_errors:
    """Context manager that raises errors of HTTP and of Flower as the classes of this module."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        match error:
            case httpx.HTTPStatusError(response=response):
                match response.status_code:
                    case 403 if REFUSED_HEADER.decode() in response.headers:
                        raise AccessDeniedError(_detail(response)) from error
                    case 401:
                        raise UnknownNodeError("the server does not know this node") from error
                    case 403:
                        raise RunEndedError from error
                    case 429 | 500 | 502 | 503 | 504:
                        reason = f"the server answered {response.status_code} {_detail(response)}"
                        raise UnreachableError(reason.strip()) from error
                    case _:
                        raise RequestRefusedError(f"{response.status_code}: {response.text[:200]}") from error
            case httpx.TransportError():
                raise UnreachableError(_explain(error)) from error
            case ObjectPullError() | ObjectPushError():
                raise UnreachableError(str(error)) from error
            case ValueError():
                raise UnreachableError(f"the answer is not Flower's: {error}") from error


TLS_CAUSES = {
    "certificate has expired": "the server's certificate has expired",
    "not yet valid": "the server's certificate is not valid yet, or this machine's clock is behind",
    "unable to get local issuer": "the server's certificate is from another CA than client.tls_ca",
    "self-signed certificate": "the server's certificate is from another CA than client.tls_ca",
    "signature failure": "the server's certificate is from another CA than client.tls_ca",
    "mismatch": "the server's certificate is for other names than this one",
    "WRONG_VERSION_NUMBER": "the server speaks plain HTTP, and this client TLS: unset client.tls_ca, or set "
    "server.tls_certificate",
}
"""Causes of a failed TLS connection, by a part of the message of OpenSSL."""


def _explain(error: httpx.TransportError) -> str:
    """Return the message of a connection error, with its cause if that is known."""
    message = str(error) or type(error).__name__
    for part, cause in TLS_CAUSES.items():
        if part in message:
            return f"{cause} ({message})"
    if isinstance(error, httpx.ProtocolError | httpx.ReadError):
        return (
            f"{message}; a server that speaks TLS does this to plain HTTP: set client.tls_ca and client.key"
        )
    return message


def _detail(response: httpx.Response) -> str:
    """Return the reason that Flower gives in a response; empty if there is none."""
    error = FlowerError.from_json(response.text)
    return str(error.message) if error is not None else ""

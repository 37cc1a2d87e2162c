"""Signs a client's requests by the server's clock, so that the clock of the client's machine may be wrong."""

from __future__ import annotations

import logging
import time
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

log = logging.getLogger(__name__)

MIN_DIFFERENCE_S = 2.0
"""Smallest difference of two clocks for which a request is signed again: `Date` has whole seconds."""


class SigningInterceptor:
    """Adds the client's key and a signed time to each request to the Fleet API.

    SuperLink accepts a time that is at most a few seconds ahead of its clock and a few minutes behind. If it
    refuses a request, its answer has the time of its clock, by which the request is signed again. From then
    on the server's time is counted on the monotonic clock, which no change of the machine's time affects.

    Args:
        private_key: The client's.
        public_key: The client's.
        clock: Returns seconds since 1970 by this machine's clock.
    """

    def __init__(
        self,
        private_key: ec.EllipticCurvePrivateKey,
        public_key: ec.EllipticCurvePublicKey,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._private_key, self._clock = private_key, clock
        self._public_key = b64encode(public_key_to_bytes(public_key)).decode()
        self._ahead_s: float | None = None
        """The server's time less that of `time.monotonic`; None until a request was refused."""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Sign a request and send it, once more if it was refused because the clocks differ."""
        signed_at = self._sign(context.request)
        response = call_next(context)
        if response.status_code != httpx.codes.UNAUTHORIZED or not self._learn(response, signed_at):
            return response
        response.close()
        self._sign(context.request)
        return call_next(context)

    def _sign(self, request: httpx.Request) -> float:
        """Sign a request; return the time that is signed."""
        now = self._clock() if self._ahead_s is None else time.monotonic() + self._ahead_s
        stamp = datetime.fromtimestamp(now, UTC).isoformat()
        signature = b64encode(sign_message(self._private_key, stamp.encode("ascii"))).decode()
        request.headers.update({
            FLEET_HTTP_PUBLIC_KEY_HEADER: self._public_key,
            TIMESTAMP_HEADER: stamp,
            FLEET_HTTP_SIGNATURE_HEADER: signature,
        })  # fmt: skip
        return now

    def _learn(self, refusal: httpx.Response, signed_at: float) -> bool:
        """Take over the server's time from an answer; return whether it differs from the time signed."""
        try:
            server = parsedate_to_datetime(refusal.headers.get("date", "")).timestamp()
        except (ValueError, TypeError, OverflowError):
            return False
        if abs(server - signed_at) < MIN_DIFFERENCE_S:
            return False
        log.warning(
            "clocks differ this_machine_ahead_s=%.0f: requests are signed with the server's time",
            signed_at - server,
        )
        self._ahead_s = server - time.monotonic()
        return True

"""Tokens with which clients post notices: each follows from the server's secret and the client's name."""

from __future__ import annotations

import hashlib
import hmac


def edge_token(secret: str, client: str) -> str:
    """Return the token with which a client posts notices: it says that the notice comes from this client.

    The server stores no tokens, and a token tells nothing of the secret. Source: RFC 2104 (HMAC).

    >>> len(edge_token("secret", "edge-7")), edge_token("secret", "edge-7") == edge_token("secret", "edge-8")
    (40, False)
    """
    return hmac.new(secret.encode(), f"flockwatch notices {client}".encode(), hashlib.sha256).hexdigest()[:40]

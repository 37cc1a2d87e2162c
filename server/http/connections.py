"""Limits of the connections to one of the server's ports: in all, for an address, and for a client.

A connection is *unknown* until a request of it was answered with success. When a limit is reached, the
unknown connection that has been there longest is closed, not the new one: idle connections of a stranger
keep nobody else out.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

Peer = tuple[str, int]
"""Address and port of the other side of a connection."""
Peers = OrderedDict[Peer, None]
"""Connections, the longest idle one first."""
Close = Callable[[], object]


@dataclass(frozen=True)
class Limits:
    """Limits of one port."""

    connections: int
    """Connections in all."""
    unknown: int
    """Unknown connections."""
    per_address: int
    """Unknown connections from one address."""
    per_client: int
    """Known connections of one client."""
    head_bytes: int = 32 * 1024
    """Size of a request line with its headers."""
    head_s: float = 10.0
    """Time for a TLS handshake, and for the first request line with its headers."""
    body_s: float = 60.0
    """Time for a request's body, to which the time at `MIN_BYTES_PER_S` is added."""


class Connections:
    """The open connections of one port. All methods are called in one thread, the one of its event loop.

    Args:
        limits: The limits.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.closed = 0
        """Connections that were closed or refused because of a limit."""
        self._close: dict[Peer, Close] = {}
        self._unknown: Peers = OrderedDict()
        self._of_address: defaultdict[str, Peers] = defaultdict(OrderedDict)
        self._of_client: defaultdict[str, Peers] = defaultdict(OrderedDict)
        self._client: dict[Peer, str] = {}

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._close)

    def enter(self, peer: Peer, close: Close) -> bool:
        """Add a new connection, and close another one if a limit is reached.

        Args:
            peer: The other side.
            close: Closes the connection.

        Returns:
            Whether the connection may stay: False if there are too many, and all others are known.
        """
        self.leave(peer)
        if len(self._of_address[peer[0]]) >= self.limits.per_address:
            self._evict(self._of_address[peer[0]])
        elif len(self._unknown) >= self.limits.unknown or len(self) >= self.limits.connections:
            if not self._unknown:
                self.closed += 1
                self._drop_empty(self._of_address, peer[0])
                return False
            self._evict(self._unknown)
        self._close[peer] = close
        self._unknown[peer] = None
        self._of_address[peer[0]][peer] = None
        return True

    def opened(self, peer: Peer, close: Close) -> bool:
        """Replace how a connection is closed; return False if it was closed in the meantime."""
        if peer not in self._close:
            return False
        self._close[peer] = close
        return True

    def admit(self, peer: Peer, client: str | None) -> None:
        """Record that a request was answered with success.

        Args:
            peer: The connection that it came on.
            client: The client that sent it; None: the connection stays unknown, as the newest of them.
        """
        if peer not in self._close:
            return
        if client is None:
            if peer in self._unknown:
                self._unknown.move_to_end(peer)
                self._of_address[peer[0]].move_to_end(peer)
            return
        if self._client.get(peer) != client:
            close = self._close[peer]
            self.leave(peer)
            peers = self._of_client[client]
            if len(peers) >= self.limits.per_client:
                self._evict(peers)
            self._close[peer], self._client[peer] = close, client
        self._of_client[client][peer] = None
        self._of_client[client].move_to_end(peer)

    def leave(self, peer: Peer) -> None:
        """Remove a connection that has ended."""
        if self._close.pop(peer, None) is None:
            return
        if (client := self._client.pop(peer, None)) is not None:
            self._of_client[client].pop(peer, None)
            self._drop_empty(self._of_client, client)
        else:
            self._unknown.pop(peer, None)
            self._of_address[peer[0]].pop(peer, None)
            self._drop_empty(self._of_address, peer[0])

    def relieve(self) -> bool:
        """Close the oldest unknown connection; return whether there was one."""
        if not self._unknown:
            return False
        self._evict(self._unknown)
        return True

    def _evict(self, peers: Peers) -> None:
        peer = next(iter(peers))
        close = self._close[peer]
        self.leave(peer)
        self.closed += 1
        close()

    @staticmethod
    def _drop_empty(groups: defaultdict[str, Peers], name: str) -> None:
        if name in groups and not groups[name]:
            del groups[name]

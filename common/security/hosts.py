"""Hosts: addresses, and the check of the name under which a browser asks a status address."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable


def parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a host as an IP address; None if it is a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address, which only this machine can connect to."""
    address = parse_address(host)
    return host == "localhost" if address is None else address.is_loopback


class HostCheck:
    """Refuses requests whose `Host` header has a name that is not this machine's.

    A web page of somebody else can have its own name point to this machine, and then read what the operator's
    browser may read (DNS rebinding). It cannot make the browser send an address as the name.

    Args:
        host: The host of the address that is listened on.
        further: Further names, beside this machine's, `localhost` and every address.
        setting: The setting that has the further names.

    >>> check = HostCheck("127.0.0.1", ["proxy.example"], "server.status_hosts")
    >>> check.refusal("proxy.example:8080")
    >>> check.refusal("[::1]:8080")
    >>> check.refusal("other.example")
    "this machine does not know the name 'other.example': add it to server.status_hosts"
    """

    def __init__(self, host: str, further: Iterable[str], setting: str) -> None:
        names = {host.strip("[]"), socket.gethostname(), "localhost", *further}
        self._names = frozenset(name.lower() for name in names)
        self._setting = setting

    def refusal(self, header: str) -> str | None:
        """Return why a request with this `Host` header is refused; None if it is answered.

        Args:
            header: The header's value; empty if there is none, which no browser leaves out.
        """
        name = header.removesuffix("]") if header.endswith("]") else header.rpartition(":")[0] or header
        name = name.strip("[]").rstrip(".").lower()
        if not name or name in self._names or parse_address(name) is not None:
            return None
        return f"this machine does not know the name {name[:100]!a}: add it to {self._setting}"

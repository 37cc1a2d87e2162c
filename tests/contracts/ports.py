"""Ports for servers that a test starts in another process, or starts again."""

from __future__ import annotations

import socket
import sys


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody else is given while this process lives.

    On Linux a socket stays bound to it and never listens. Who names the port, and sets SO_REUSEADDR as
    servers do, may listen on it; who asks for any free port gets another, in however many processes tests
    run. Where two sockets cannot be bound to one port, it was only free a moment ago.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port = int(holder.getsockname()[1])
    if sys.platform == "linux":
        holder.detach()  # open until the process ends
    else:
        holder.close()
    return port

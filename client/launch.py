"""The `client` process: reads the machine's data once, and serves the federation until told to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from client.app import build
from client.data import read
from client.edge import Edge
from client.identity import Identity
from client.link import Link
from common.config import ConfigError
from common.settings import Settings

log = logging.getLogger(__name__)


def serve(settings: Settings, on_ready: Callable[[Link], None]) -> None:
    """Take part in the federation; returns when the link is stopped.

    Args:
        settings: The `client` and `data` sections count; the model comes from the server.
        on_ready: Called once with the link, before it connects, so that a signal can stop it.

    Raises:
        ConfigError: no data file is set.
        DataError: the data file cannot be used.
        IdentityError: another process uses the client's state folder.
    """
    if settings.client.data is None:
        raise ConfigError("'client.data' is not set: name the data file of this client, or pass --data FILE")
    partition = read(settings.client.data, settings.data, settings.client.name)
    identity = Identity(settings.client.state or Path("runs/clients") / partition.name)
    log.info(
        "client ready name=%s rows=%d features=%d server=%s",
        partition.name, len(partition.rows), len(partition.schema), settings.client.server,
    )  # fmt: skip
    # Seconds of imports, taken now and not out of the first round; a machine without Keras can still measure.
    with suppress(ImportError):
        import client.trainer  # noqa: F401
    edge = Edge(partition, identity.instance, inline=True)
    link = Link(settings.client.server, build(lambda _: edge))
    on_ready(link)
    try:
        link.serve()
    finally:
        identity.release()

"""The federation's features: declared (`data.features`), or those that most of the clients share.

The choice of the first clients can change: if more clients share other features than fit the present ones or
have trained with them, the federation starts again with the features of these clients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from common.model.schema import Schema, SchemaError
from server.coordination.state import ConnectedClient, State

Features = tuple[str, ...]


def features_of(client: ConnectedClient) -> Features:
    """Return the features that a client has described; none before it has."""
    return client.description.schema.features if client.description is not None else ()


def misfit(features: Features, client: ConnectedClient) -> str | None:
    """Return how a client's features differ from the federation's; None if they fit."""
    try:
        Schema(features).align(features_of(client))
    except SchemaError as error:
        return str(error)
    return None


def excess(state: State, client: ConnectedClient, max_model_mb: int) -> str | None:
    """Return how many features a client has too many; None if it has not, or has the federation's.

    Args:
        state: The coordinator's.
        client: The client, which has described itself.
        max_model_mb: `federation.max_model_mb`, from which `State.max_features` follows.
    """
    count, limit = len(features_of(client)), state.max_features
    if count <= limit or state.declared:  # a client with others than the declared features is a misfit
        return None
    if state.features is not None and misfit(state.features, client) is None:
        return None
    text = f"'{client.name}' has {count:,} features, but federation.max_model_mb ({max_model_mb} MB)"
    return f"{text} allows a model of {limit:,} at most"


def most_common(clients: Iterable[ConnectedClient]) -> tuple[Features, int]:
    """Return the features that most of the clients share, in any order, and how many clients these are.

    A tie is decided by the names, regardless of the order of the clients. There is at least one client.
    """
    clients = list(clients)
    votes = Counter(tuple(sorted(features_of(client))) for client in clients)
    majority = max(votes, key=lambda names: (votes[names], names))
    return next(f for f in map(features_of, clients) if tuple(sorted(f)) == majority), votes[majority]


def majority_features(state: State) -> Features | None:
    """Return the features that the federation must restart with; None if it keeps the present ones."""
    features = state.features
    if features is None or state.declared or state.ending:
        return None
    connected = state.clients.values()
    others = [c for c in connected if c.status == "refused" and c.reason == misfit(features, c)]
    if not others:
        return None
    fitting = {c.name for c in connected if c.status != "refused" and misfit(features, c) is None}
    majority, votes = most_common({client.name: client for client in others}.values())
    return majority if votes > len(fitting | state.durations.keys()) else None

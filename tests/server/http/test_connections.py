from __future__ import annotations

from server.http.connections import Connections, Limits, Peer

LIMITS = Limits(connections=6, unknown=4, per_address=3, per_client=2)


class World:
    """The connections of a port, and which of them were closed."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.connections, self.ended = Connections(limits), list[Peer]()

    def enter(self, address: str, port: int) -> bool:
        peer = (address, port)
        return self.connections.enter(peer, lambda: self.ended.append(peer))


def test_the_longest_waiting_unknown_connection_of_an_address_makes_room() -> None:
    world = World()
    assert all(world.enter("a", port) for port in range(4))
    assert world.enter("b", 9)
    assert (world.ended, len(world.connections)) == ([("a", 0)], 4)


def test_the_longest_waiting_unknown_connection_of_all_makes_room() -> None:
    world = World()
    assert all(world.enter(address, 1) for address in "abcdef")
    assert (world.ended, len(world.connections), world.connections.closed) == ([("a", 1), ("b", 1)], 4, 2)


def test_strangers_do_not_displace_a_known_client() -> None:
    world = World()
    assert world.enter("a", 1)
    world.connections.admit(("a", 1), "client")
    assert all(world.enter("a", port) for port in range(2, 50))
    assert ("a", 1) not in world.ended
    assert len(world.connections) == 4


def test_a_client_keeps_its_newest_connections() -> None:
    world = World()
    for port in (1, 2, 3):
        assert world.enter("a", port)
        world.connections.admit(("a", port), "client")
        world.connections.admit(("a", 1), "client")
    assert world.ended == [("a", 2)]


def test_when_all_places_are_known_a_new_connection_is_refused_until_one_is_free() -> None:
    world = World()
    for n in range(6):
        assert world.enter("a", n)
        world.connections.admit(("a", n), f"client {n}")
    assert not world.enter("b", 1)
    world.connections.leave(("a", 3))
    assert world.enter("b", 1)
    assert world.ended == []


def test_a_connection_that_was_closed_cannot_become_known() -> None:
    world = World()
    for port in range(4):
        world.enter("a", port)
    world.connections.admit(("a", 0), "client")
    assert not world.connections.opened(("a", 0), lambda: None)
    assert len(world.connections) == 3


def test_nothing_stays_of_connections_that_have_left() -> None:
    world = World()
    for n in range(1000):
        world.enter(f"address {n}", n)
        world.connections.admit((f"address {n}", n), f"client {n}" if n % 2 else None)
        world.connections.leave((f"address {n}", n))
        world.connections.leave((f"address {n}", n))
    assert (
        len(world.connections) == len(world.connections._of_address) == len(world.connections._of_client) == 0
    )


def test_without_descriptors_the_longest_waiting_connection_is_closed() -> None:
    world = World()
    assert not world.connections.relieve()
    world.enter("a", 1)
    world.enter("b", 1)
    assert world.connections.relieve()
    assert world.ended == [("a", 1)]

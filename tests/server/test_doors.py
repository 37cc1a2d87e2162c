from __future__ import annotations

from server.doors import Doors, Limits, Peer

LIMITS = Limits(connections=6, unknown=4, per_address=3, per_client=2)


class World:
    """Doors, and which connections they have closed."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.doors, self.ended = Doors(limits), list[Peer]()

    def enter(self, address: str, port: int) -> bool:
        peer = (address, port)
        return self.doors.enter(peer, lambda: self.ended.append(peer))


def test_the_longest_waiting_unknown_connection_of_an_address_makes_room() -> None:
    world = World()
    assert all(world.enter("a", port) for port in range(4))
    assert world.enter("b", 9)
    assert (world.ended, len(world.doors)) == ([("a", 0)], 4)


def test_the_longest_waiting_unknown_connection_of_all_makes_room() -> None:
    world = World()
    assert all(world.enter(address, 1) for address in "abcdef")
    assert (world.ended, len(world.doors), world.doors.closed) == ([("a", 1), ("b", 1)], 4, 2)


def test_strangers_do_not_displace_a_known_client() -> None:
    world = World()
    assert world.enter("a", 1)
    world.doors.admit(("a", 1), "client")
    assert all(world.enter("a", port) for port in range(2, 50))
    assert ("a", 1) not in world.ended
    assert len(world.doors) == 4


def test_a_client_keeps_its_newest_connections() -> None:
    world = World()
    for port in (1, 2, 3):
        assert world.enter("a", port)
        world.doors.admit(("a", port), "client")
        world.doors.admit(("a", 1), "client")
    assert world.ended == [("a", 2)]


def test_when_all_places_are_known_a_new_connection_is_refused_until_one_is_free() -> None:
    world = World()
    for n in range(6):
        assert world.enter("a", n)
        world.doors.admit(("a", n), f"client {n}")
    assert not world.enter("b", 1)
    world.doors.leave(("a", 3))
    assert world.enter("b", 1)
    assert world.ended == []


def test_a_connection_that_was_closed_cannot_become_known() -> None:
    world = World()
    for port in range(4):
        world.enter("a", port)
    world.doors.admit(("a", 0), "client")
    assert not world.doors.opened(("a", 0), lambda: None)
    assert len(world.doors) == 3


def test_nothing_stays_of_connections_that_have_left() -> None:
    world = World()
    for n in range(1000):
        world.enter(f"address {n}", n)
        world.doors.admit((f"address {n}", n), f"client {n}" if n % 2 else None)
        world.doors.leave((f"address {n}", n))
        world.doors.leave((f"address {n}", n))
    assert len(world.doors) == len(world.doors._of_address) == len(world.doors._of_client) == 0


def test_without_descriptors_the_longest_waiting_connection_is_closed() -> None:
    world = World()
    assert not world.doors.relieve()
    world.enter("a", 1)
    world.enter("b", 1)
    assert world.doors.relieve()
    assert world.ended == [("a", 1)]

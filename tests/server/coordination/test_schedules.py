"""Thousands of random schedules with a fake clock; `world` checks the invariants at every step."""

from __future__ import annotations

import random
from typing import Any, Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from common.settings import FederationSettings
from tests.server.world import FEATURES, World

Mode = Literal["synchronous", "asynchronous"]
MODES: tuple[Mode, ...] = ("synchronous", "asynchronous")
SCHEDULES = 1000
"""Random schedules per mode and test."""


def rules(draw: random.Random, mode: Mode, **fixed: Any) -> FederationSettings:
    values = {
        "mode": mode,
        "min_clients": draw.randint(1, 3),
        "fraction": draw.choice([0.3, 1.0]),
        "quorum": draw.choice([0.3, 0.5, 1.0]),
        "patience": draw.randint(0, 3),
        "max_rounds": draw.randint(1, 30),
        "buffer": draw.randint(1, 4),
        "in_flight": draw.choice([None, 1, 2]),
        "staleness_limit": draw.choice([0, 1, 5]),
        "deadline_s": 10.0,
        "wait_s": 120.0,
    }
    return FederationSettings(**values | fixed)


def play(world: World, draw: random.Random, events: int) -> None:
    """Let this many random things happen."""
    for _ in range(events):
        nodes = list(world.clients)
        what = draw.random()
        world.error = draw.choice([1.0, 0.5, 0.4])
        world.aggregation_fails = draw.random() < 0.05
        if not nodes or (what < 0.08 and len(nodes) < 7):
            features = draw.choice([FEATURES, FEATURES, FEATURES, FEATURES[::-1], ("cpu",)])
            world.join(draw.choice("abcdef"), draw.choice(["one", "one", "two"]), features)
            continue
        node = draw.choice(nodes)
        if what < 0.11:
            world.die(node)
        elif what < 0.15:
            world.hide(node)
        elif what < 0.21:
            world.show(node)
        elif what < 0.24:
            world.lose(node)
        elif what < 0.27:
            world.repeat(draw.randrange(1000))
        elif what < 0.275:
            world.restart()
        elif what < 0.65:
            world.work(node, sound=draw.random() < 0.9, drifted=draw.random() < 0.1)
            if draw.random() < 0.7:
                world.deliver(node)
        elif what < 0.82:
            world.deliver(node)
        else:
            world.pass_time(draw.choice([0.0, 0.1, 0.5, 2.0, 6.0]))


@pytest.mark.parametrize("mode", MODES)
def test_any_schedule_ends_with_a_reason_once_no_client_answers(mode: Mode) -> None:
    versions = stops = 0
    for seed in range(SCHEDULES):
        draw = random.Random(f"{mode}/{seed}")
        world = World(rules(draw, mode), draw.choice([None, FEATURES]))
        world.first_features = world.state.features
        try:
            for name in "xyz"[: draw.randint(0, 3)]:
                world.join(name)
            play(world, draw, 200)
            versions += world.state.version
            world.end()
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}: {error}") from error
        stops += world.stops
    assert stops == SCHEDULES
    assert versions > SCHEDULES  # the schedules make progress


@pytest.mark.parametrize("mode", MODES)
def test_after_any_schedule_working_clients_complete_the_run(mode: Mode) -> None:
    """No earlier fault leaves a client idle for ever, or the run without new versions."""
    for seed in range(SCHEDULES):
        draw = random.Random(f"{mode}/finish/{seed}")
        # The run must not give up by chance while the schedule is played.
        world = World(rules(draw, mode, max_rounds=12, patience=0, wait_s=1e6), FEATURES)
        world.first_features = FEATURES
        play(world, draw, 100)
        if world.state.stopped is None:
            for name in ("x", "y", "z"):
                world.join(name)
            try:
                world.finish()
            except AssertionError as error:
                raise AssertionError(f"schedule {seed}: {error}") from error
        assert world.state.stopped == "12 rounds done", f"schedule {seed}"
        assert world.state.version == 12
        assert world.disk is not None
        assert world.disk[0] == 12


class AnySchedule(RuleBasedStateMachine):
    """The same world, driven by hypothesis, which shortens a schedule that fails."""

    @initialize(seed=st.integers(0, 10**6), mode=st.sampled_from(MODES))
    def begin(self, seed: int, mode: Mode) -> None:
        self.world = World(rules(random.Random(seed), mode), FEATURES)
        self.world.first_features = FEATURES

    def node(self, index: int) -> int:
        return list(self.world.clients)[index % len(self.world.clients)]

    @precondition(lambda self: len(self.world.clients) < 7)
    @rule(name=st.sampled_from("abcd"), instance=st.sampled_from(["one", "two"]))
    def a_client_connects(self, name: str, instance: str) -> None:
        self.world.join(name, instance)

    @precondition(lambda self: self.world.clients)
    @rule(
        index=st.integers(0, 6), what=st.sampled_from(["die", "hide", "show", "lose", "deliver", "deliver"])
    )
    def something_happens_to_a_client(self, index: int, what: str) -> None:
        getattr(self.world, what)(self.node(index))

    @precondition(lambda self: self.world.clients)
    @rule(index=st.integers(0, 6), sound=st.booleans(), drifted=st.booleans())
    def a_client_works(self, index: int, sound: bool, drifted: bool) -> None:
        self.world.work(self.node(index), sound, drifted)

    @rule(index=st.integers(0, 100))
    def a_reply_is_delivered_again(self, index: int) -> None:
        self.world.repeat(index)

    @rule(fails=st.booleans(), error=st.sampled_from([1.0, 0.5, 0.4]))
    def aggregations_turn_out(self, fails: bool, error: float) -> None:
        self.world.aggregation_fails, self.world.error = fails, error

    @rule()
    def the_server_restarts(self) -> None:
        self.world.restart()

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 6.0, 11.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.end()


TestAnySchedule = AnySchedule.TestCase
TestAnySchedule.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)

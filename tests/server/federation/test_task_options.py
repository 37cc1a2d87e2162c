from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from common.compression.choice import NAMES, STATELESS, named
from common.model.moments import Moments
from common.model.schema import Schema
from common.model.sketch import ScoreSketch
from common.protocol.messages import Description
from common.protocol.traffic import Traffic
from common.settings import Codec, CompressionSettings
from server.federation.client_records import ClientRecords
from server.federation.task_options import MAX_REPORTED, AppliedUpdates, down, task_options, up
from tests.server.federation.test_client_records import update


def described(codecs: tuple[str, ...]) -> Description:
    moments = Moments.of(np.array([[0.0], [1.0]]))
    return Description("a", "i", Schema(("f",)), moments, True, False, codecs)


def test_settings_name_every_codec_and_no_other() -> None:
    assert set(get_args(Codec)) == {*NAMES, "auto"}


@pytest.mark.parametrize("name", NAMES)
def test_settings_become_a_codec_that_exists(name: str) -> None:
    for zstd in (True, False):
        settings = CompressionSettings.model_validate({"up": name, "down": name, "zstd": zstd})
        assert named(up(settings, 1000, None))
        assert named(down(settings, 1000, []))


def test_each_direction_has_its_own_parameters() -> None:
    settings = CompressionSettings(up="topk", up_share=0.5, down="lowrank", down_rank=3, zstd=False)
    assert (up(settings, 1, None), down(settings, 1, [])) == ("topk:0.5", "lowrank:3")


def test_auto_goes_by_each_link_up_and_by_the_slowest_down() -> None:
    settings = CompressionSettings(up="auto", down="auto", zstd=False)
    assert [up(settings, 26_000, s) for s in (1e9, 1e4)] == ["none", "ternary:0.08"]
    assert down(settings, 26_000, [1e9, 1e9]) == "none"
    assert down(settings, 26_000, [1e9, 1e4]) == "ternary:0.2"


def test_only_who_can_follow_changes_is_asked_to_keep_a_version() -> None:
    settings = CompressionSettings(up="sign", down="int8", zstd=False)
    whole = task_options(settings, described(NAMES), 10, None, (1,), (2,))
    assert (whole.codec, whole.keep, whole.used, whole.waiting) == ("sign", True, (1,), (2,))
    stock = task_options(settings, described(STATELESS), 10, None, (), ())
    assert (stock.codec, stock.keep) == ("int8", False)
    assert not task_options(CompressionSettings(), described(NAMES), 10, None, (), ()).keep


@pytest.mark.parametrize(
    ("codec", "scored", "asked"),
    [
        ("none", 19, True),
        ("int8", 19, True),
        ("sign", None, True),
        ("sign", 20, False),
        ("sign", 16, False),
        ("sign", 15, True),
        ("sign", 22, True),
    ],
)
def test_scores_are_asked_for_now_and_then_where_updates_are_small(
    codec: Any, scored: int | None, asked: bool
) -> None:
    settings = CompressionSettings(up=codec)
    assert (
        task_options(settings, described(NAMES), 10, None, (), (), version=20, scored=scored).scores is asked
    )


def test_a_client_without_new_scores_keeps_its_last_ones() -> None:
    fleet = ClientRecords()
    fleet.heard(update("a", scores=[1.0, 2.0]))
    fleet.heard(update("a", version=4))
    assert fleet.scored("a") == 3
    assert fleet.scores({"a"}, ScoreSketch()).count == 2
    assert fleet.scored("b") is None


def test_the_newest_fates_are_told_and_outlive_a_restart() -> None:
    fates = AppliedUpdates()
    for serial in range(1, 20):
        fates.folded("a", serial)
    assert AppliedUpdates(fates.saved()).of("a") == tuple(range(20 - MAX_REPORTED, 20))


def test_a_clients_traffic_is_added_up_over_its_processes() -> None:
    fleet = ClientRecords()
    fleet.heard(update("a", traffic=Traffic(100, 10, timed_bytes=20_000, timed_s=0.5)))
    since = fleet.heard(update("a", traffic=Traffic(150, 15, timed_bytes=20_000, timed_s=0.5)))
    assert since.sent_bytes == 50
    again = ClientRecords(fleet.saved())
    assert again.heard(update("a", traffic=Traffic(30, 5))).sent_bytes == 30
    assert (again.records["a"].sent_bytes, again.records["a"].received_bytes) == (180, 20)
    assert fleet.speeds(["a", "b"]) == {"a": 40_000.0}

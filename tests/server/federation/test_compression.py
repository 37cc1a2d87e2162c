from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from common.compression.choice import CODEC_NAMES, STATELESS_CODECS, find_codec
from common.formats.bundle import BundleError
from common.model.histogram import ScoreHistogram
from common.model.lag_covariances import MAX_INPUTS, SentCovariances, can_be_sent
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.schema import Schema
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.protocol.messages import Description, Traffic, VersionMissing
from common.protocol.wire import pack
from common.settings import Codec, CompressionSettings, Settings
from server.federation.client_records import ClientRecords
from server.federation.compression import (
    MAX_REPORTED,
    AppliedUpdates,
    TaskBuilder,
    VersionStep,
    update_codec,
    version_codec,
)
from server.federation.replies import AdmittedReplies
from tests.common.protocol.sample_messages import LEAF_COUNTS
from tests.common.sample_chains import chain
from tests.server.replies import admitted, update


def described(codecs: tuple[str, ...]) -> Description:
    moments = Moments.of(np.array([[0.0], [1.0]]))
    return Description("a", "i", Schema(("f",)), moments, True, False, codecs)


AUTOENCODER_ALONE = VersionSettings.of(Settings().with_values(detector={"family": "autoencoder"}))


def manifest(version: int = 3) -> Manifest:
    architecture = Architecture(1, window=1, hidden=(2,))
    moments = Moments.of(np.array([[0.0], [1.0]]))
    weights = architecture.initial_weights(0)
    return Manifest(version, Schema(("f",)), architecture, weights, moments, VersionSettings())


def test_settings_name_every_codec_and_no_other() -> None:
    assert set(get_args(Codec)) == {*CODEC_NAMES, "auto"}


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_settings_become_a_codec_that_exists(name: str) -> None:
    for zstd in (True, False):
        settings = CompressionSettings.model_validate({"up": name, "down": name, "zstd": zstd})
        assert find_codec(update_codec(settings, 1000, None))
        assert find_codec(version_codec(settings, 1000, []))


def test_each_direction_has_its_own_parameters() -> None:
    settings = CompressionSettings(up="topk", up_share=0.5, down="ternary", down_share=0.25, zstd=False)
    assert (update_codec(settings, 1, None), version_codec(settings, 1, [])) == ("topk:0.5", "ternary:0.25")


def test_auto_goes_by_each_link_up_and_by_the_slowest_down() -> None:
    settings = CompressionSettings(up="auto", down="auto", zstd=False)
    assert [update_codec(settings, 26_000, s) for s in (1e9, 1e4)] == ["none", "ternary:0.08"]
    assert version_codec(settings, 26_000, [1e9, 1e9]) == "none"
    assert version_codec(settings, 26_000, [1e9, 1e4]) == "ternary:0.2"


def test_only_who_can_follow_changes_is_asked_to_keep_a_version() -> None:
    settings = CompressionSettings(up="ternary", down="int8", zstd=False)
    records, replies, applied = ClientRecords(), AdmittedReplies(), AppliedUpdates()
    applied.add("a", 1)
    replies.add(admitted(update("a", serial=2)))
    builder = TaskBuilder(settings, records, replies, applied)
    whole = builder.options(manifest(), described(CODEC_NAMES))
    assert (whole.codec, whole.keep, whole.used, whole.waiting) == ("ternary:0.08", True, (1,), (2,))
    stock = builder.options(manifest(), described(STATELESS_CODECS))
    assert (stock.codec, stock.keep) == ("int8", False)
    plain = TaskBuilder(CompressionSettings(), records, replies, applied)
    assert not plain.options(manifest(), described(CODEC_NAMES)).keep


def test_covariances_are_asked_for_once_and_only_by_a_fleet_that_uses_them() -> None:
    records = ClientRecords()
    builder = TaskBuilder(CompressionSettings(), records, AdmittedReplies(), AppliedUpdates())
    ensemble = VersionSettings.of(Settings().with_values(detector={"family": "ensemble"}))
    uses = replace(manifest(), settings=ensemble)
    long = Architecture(1, window=MAX_INPUTS + 1, hidden=(1,))
    assert can_be_sent(MAX_INPUTS, 1) and not can_be_sent(1, MAX_INPUTS)
    large = replace(uses, architecture=long, weights=long.initial_weights(0))
    plain = replace(manifest(), settings=AUTOENCODER_ALONE)
    asked = [builder.options(m, described(CODEC_NAMES)).covariances for m in (plain, uses, large)]
    assert asked == [False, True, False]
    sent = SentCovariances(5, np.ones(1), bytes(1))
    records.record_reply(update("a", rows=10, covariances=sent))
    assert not builder.options(uses, described(CODEC_NAMES)).covariances


def test_leaf_counts_are_asked_for_once_and_only_by_a_fleet_that_uses_them() -> None:
    records = ClientRecords()
    builder = TaskBuilder(CompressionSettings(), records, AdmittedReplies(), AppliedUpdates())
    forest = VersionSettings.of(Settings().with_values(detector={"family": "isolation_forest"}))
    uses = replace(manifest(), settings=forest)
    plain = replace(manifest(), settings=AUTOENCODER_ALONE)
    asked = [builder.options(m, described(CODEC_NAMES)) for m in (plain, uses)]
    assert [(options.covariances, options.leaf_counts) for options in asked] == [
        (False, False),
        (False, True),
    ]
    records.record_reply(update("a", rows=10, leaf_counts=LEAF_COUNTS))
    assert not builder.options(uses, described(CODEC_NAMES)).leaf_counts


@pytest.mark.parametrize(
    ("codec", "scored", "asked"),
    [
        ("none", 19, True),
        ("int8", 19, True),
        ("ternary", None, True),
        ("ternary", 20, False),
        ("ternary", 16, False),
        ("ternary", 15, True),
        ("ternary", 22, True),
    ],
)
def test_scores_are_asked_for_now_and_then_where_updates_are_small(
    codec: Any, scored: int | None, asked: bool
) -> None:
    records = ClientRecords()
    if scored is not None:
        records.record_reply(update("a", version=scored, scores=[1.0]))
    builder = TaskBuilder(CompressionSettings(up=codec), records, AdmittedReplies(), AppliedUpdates())
    assert builder.task(manifest(20), 0, described(CODEC_NAMES)).options.scores is asked


def test_a_client_without_new_scores_keeps_its_last_ones() -> None:
    records = ClientRecords()
    records.record_reply(update("a", scores=[1.0, 2.0]))
    records.record_reply(update("a", version=4))
    assert records.scored_version("a") == 3
    assert records.merged_scores({"a"}, ScoreHistogram.empty()).count == 2
    assert records.scored_version("b") is None


def test_the_newest_applied_updates_are_reported_and_survive_a_restart() -> None:
    applied = AppliedUpdates()
    for serial in range(1, 20):
        applied.add("a", serial)
    assert AppliedUpdates(applied.to_json()).serials("a") == tuple(range(20 - MAX_REPORTED, 20))


def test_a_clients_traffic_is_added_up_over_its_processes() -> None:
    records = ClientRecords()
    records.record_reply(update("a", traffic=Traffic(100, 10, timed_bytes=20_000, timed_s=0.5)))
    since = records.record_reply(update("a", traffic=Traffic(150, 15, timed_bytes=20_000, timed_s=0.5)))
    assert since.sent_bytes == 50
    again = ClientRecords(records.to_json())
    assert again.record_reply(update("a", traffic=Traffic(30, 5))).sent_bytes == 30
    assert (again["a"].sent_bytes, again["a"].received_bytes) == (180, 20)
    assert records.link_speeds(["a", "b"]) == {"a": 40_000.0}


def test_a_step_comes_back_from_its_file() -> None:
    made, [(version, block)] = chain(1)
    step = VersionStep(version, made[0].hash, made[1].hash, block)
    assert VersionStep.unpack(step.pack()) == step


@pytest.mark.parametrize("content", [b"", b"noise", pack(VersionMissing("a", "b")), manifest().pack()])
def test_content_that_is_not_a_step_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError):
        VersionStep.unpack(content)

"""Any Unicode name of a feature passes through files, streams, messages, versions and metrics."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from client.buffers.training_buffer import read_schema, write_schema
from client.data.columns import Content, Kind, choose_columns
from client.data.files.partitions import read_partition
from client.data.streams.decoding import Decoder
from client.data.streams.schema import SchemaResolver
from client.detection.detector import Detector
from client.service.status import DetectorStatusServer
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.schema import Schema, SchemaError, is_text
from common.model.version_settings import VersionSettings
from common.model.weights import Architecture
from common.protocol.alerts import Alert, Cause, Notice
from common.settings import DataSettings, LiveSettings, Settings
from tests.client.service.test_status import STATUS, get
from tests.names import NAMES, NO_NAMES

SCHEMA = Schema(NAMES)
VALUES = np.arange(len(NAMES), dtype=np.float32)


def decoded(lines: list[bytes]) -> np.ndarray:
    decoder, rows = Decoder(SCHEMA, DataSettings()), bytearray(4 * len(SCHEMA))
    for line in lines[:-1]:
        with pytest.raises(Exception, match=""):  # a header is no event
            decoder.decode(line, rows, 0)
    decoder.decode(lines[-1], rows, 0)
    return np.frombuffer(rows, np.float32)


def test_a_json_event_is_decoded() -> None:
    event = json.dumps({"ts": 60, **{name: float(v) for name, v in zip(NAMES, VALUES, strict=True)}})
    np.testing.assert_array_equal(decoded([event.encode()]), VALUES)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_each_name_alone_is_decoded(name: str) -> None:
    decoder, row = Decoder(Schema((name,)), DataSettings()), bytearray(4)
    decoder.decode(json.dumps({name: 1.5}).encode(), row, 0)
    assert np.frombuffer(row, np.float32)[0] == 1.5


def test_a_file_is_read_with_all_its_columns(tmp_path: Path) -> None:
    names = [name for name in NAMES if not set("\n\r\0") & set(name) and name.strip() == name]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(np.random.default_rng(0).normal(size=(40, len(names))).round(3).tolist())
    (tmp_path / "press.csv").write_text(text.getvalue(), encoding="utf-8")
    assert read_partition(tmp_path / "press.csv", DataSettings()).schema.features == tuple(names)


def test_names_come_back_from_the_state_folder_and_from_a_version(tmp_path: Path) -> None:
    write_schema(tmp_path, SCHEMA)
    assert read_schema(tmp_path) == SCHEMA
    settings = Settings().with_values(model={"window": 1, "hidden": (2,)})
    architecture = Architecture.from_settings(settings.model, len(SCHEMA))
    moments = Moments.of(np.stack([VALUES, VALUES + 1]))
    version = Manifest(
        1, SCHEMA, architecture, architecture.initial_weights(1), moments, VersionSettings.of(settings)
    )
    assert Manifest.unpack(version.pack()).schema == SCHEMA
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(SCHEMA), type=Schema) == SCHEMA


def test_names_come_back_from_metrics_and_notices() -> None:
    counts = dict.fromkeys(NAMES, 1)
    status = replace(STATUS, flapping=NAMES, open_incidents=NAMES, moved=NAMES, refused=counts)
    server = DetectorStatusServer("127.0.0.1", 0, lambda: status)
    try:
        text, health = get(server, "/metrics").decode(), json.loads(get(server, "/healthz?verbose"))
    finally:
        server.close()
    assert str(health).count("Processor Time") > 0
    labels = {
        value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for value in sample.labels.values()
    }
    assert set(NAMES) <= labels
    alert = Alert(1.0, 2.0, 1.0, 3, tuple(Cause(name, 0.1, 1.0, 2.0) for name in NAMES))
    notice = Notice("incident_started", "a.1", "edge", 1.0, None, 1, alert)
    packed = notice.pack()
    assert Notice.unpack(packed) == notice and b"\n" not in packed


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: ascii(name)[:20])
def test_what_is_not_a_name_is_left_out_of_a_stream_with_a_reason_and_refused_as_a_feature(name: str) -> None:
    columns = choose_columns({"cpu": Content(Kind.NUMBERS), name: Content(Kind.NUMBERS)}, DataSettings())
    assert columns.features == ("cpu",)
    assert columns.ignored[name].startswith("a name ")
    with pytest.raises(SchemaError, match="expected Unicode text of at most 1024 characters"):
        Schema(("cpu", name))


def test_names_that_differ_only_in_case_or_form_are_distinguished() -> None:
    with pytest.raises(SchemaError) as caught:
        Schema(("temp\u00e9rature",)).align(["tempe\u0301rature"])
    assert "the same letters" in str(caught.value)


ANY_NAME = st.text(st.characters(exclude_categories=[]), max_size=12) | st.sampled_from(NAMES + NO_NAMES)
"""Any characters, also controls, marks of direction and halves of surrogate pairs."""


@settings(max_examples=150, deadline=None)
@given(st.lists(ANY_NAME, min_size=1, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_any_names_in_a_stream_are_features_or_left_out_with_a_reason(names: list[str], draw: Random) -> None:
    events = [{"ts": 1e9 + i, **{name: draw.random() for name in names}} for i in range(20)]
    lines = [json.dumps(event).encode() for event in events]
    resolver = SchemaResolver(DataSettings(), None, lambda: None, lambda: None)
    schema, waiting = resolver.from_stream(lines)
    assert resolver.columns is not None or resolver.problem is not None
    if schema is None:
        return
    assert resolver.columns is not None
    left_out = {*resolver.columns.ignored, resolver.columns.time}
    assert {*schema.features} | left_out >= {name for name in names if is_text(name)}
    detector = Detector("edge", schema, DataSettings(), LiveSettings())
    outcome = detector.step(waiting, 0.0)
    assert len(outcome.verdicts) == 20 and not outcome.refused
    given = [[event[name] for name in schema.features] for event in events]
    np.testing.assert_allclose(detector.recent.rows[:20], given, rtol=1e-6, atol=1e-30)

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.connectors.addresses import AddressError
from client.service.notifier import Notifier
from common.protocol.alerts import Alert, Cause, Notice

ALERT = Alert(60.0, 3.0, 1.0, 7, (Cause("cpu", 1.0, 2.0, 0.5),))
NOTICE = Notice("incident_started", "abc", "edge", 60.0, None, 1, ALERT)


def test_every_sink_gets_every_notice(tmp_path: Path) -> None:
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    notifier = Notifier([f"file:{path}" for path in files], tmp_path)
    notifier.post(NOTICE)
    notifier.close()
    for path in files:
        assert json.loads(path.read_bytes()) == json.loads(NOTICE.pack())
    assert [(queue.waiting, queue.delivered) for queue in notifier.queues()] == [(0, 1), (0, 1)]
    assert notifier.problems() == []


def test_a_wrong_address_is_an_error_before_any_outbox_is_made(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="unknown scheme 'pigeon'"):
        Notifier([f"file:{tmp_path / 'x'}", "pigeon:home"], tmp_path)
    assert not (tmp_path / "spool").exists()


def test_sinks_that_differ_in_their_passwords_alone_have_names_and_spools_of_their_own(
    tmp_path: Path,
) -> None:
    sinks = [f"http://user:{password}@127.0.0.1:9/hook" for password in ("one", "two")]
    notifier = Notifier(sinks, tmp_path)
    notifier.post(NOTICE)
    notifier.close()
    assert len({queue.sink for queue in notifier.queues()}) == 2
    assert not any("one" in queue.sink or "two" in queue.sink for queue in notifier.queues())
    assert len(list((tmp_path / "spool").glob("*/*.json"))) == 2

from __future__ import annotations

import threading

from common.protocol.traffic import MIN_TIMED_BYTES, Meter, Traffic


def test_threads_are_counted_together_and_each_for_itself() -> None:
    meter = Meter()
    meter.count(sent=3)
    other = threading.Thread(target=lambda: meter.count(sent=5, received=7))
    other.start()
    other.join()
    assert meter.own == (3, 0)
    assert (meter.traffic.sent_bytes, meter.traffic.received_bytes) == (8, 7)


def test_a_reply_is_counted_and_only_a_large_request_is_timed() -> None:
    meter = Meter()
    before = meter.own
    meter.count(sent=100, received=20)
    meter.request(before, 0.5, reply=True)
    assert meter.traffic == Traffic(100, 20, 100)
    before = meter.own
    meter.count(received=MIN_TIMED_BYTES)
    meter.request(before, 0.5)
    assert (meter.traffic.timed_bytes, meter.traffic.timed_s) == (MIN_TIMED_BYTES, 0.5)


def test_a_process_that_begins_anew_counts_from_nothing() -> None:
    assert Traffic(sent_bytes=5, encode_s=0.5).since(Traffic(sent_bytes=9)) == Traffic(5, encode_s=0.5)
    assert Traffic(9, 9).since(Traffic(5, 1)) == Traffic(4, 8)

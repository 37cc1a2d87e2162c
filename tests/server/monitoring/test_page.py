"""The status page in Chromium, with a status file that the test writes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from server.federation import status_file
from server.flower.superlink_process import free_port
from tests.contracts.browser import PHONE, Tab, tab
from tests.server.monitoring.test_alerts import packed
from tests.server.monitoring.test_status_server import Served
from tests.server.storage.test_history import finished

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
DASHES = str.maketrans({"\N{EN DASH}": "-", "\N{MINUS SIGN}": "-"})


def shown(clients: dict[str, dict[str, Any]], **changes: Any) -> dict[str, Any]:
    status = {
        "at": time.time() + 1e6, "mode": "synchronous", "strategy": "fedavg", "version": 3, "error": 0.125,
        "best_error": 0.0625, "held": 0, "buffer": None, "waiting": "", "ending": "", "stopped": None,
    }  # fmt: skip
    return {**status, **changes, "clients": clients}


def client(**changes: Any) -> dict[str, Any]:
    values = {
        "state": "idle", "why": "", "version": 3, "behind": 0, "staleness": 0, "admitted": 3, "refused": {},
        "error": 0.5, "cosine": 0.75, "distance": 0.25, "mean_s": 1.5, "sent_bytes": 12_000,
        "received_bytes": 3_400_000,
    }  # fmt: skip
    return {**values, **changes}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with closing(Served(tmp_path)) as running:
        yield running


@pytest.fixture
def opened() -> Iterator[Tab]:
    with tab() as browser_tab:
        yield browser_tab
        assert browser_tab.errors == []


def visit(opened: Tab, served: Served) -> None:
    opened.page.goto(f"http://127.0.0.1:{served.status_server.port}/")


def test_the_page_of_a_new_server(served: Served, opened: Tab) -> None:
    visit(opened, served)
    expect(opened.page.locator("#run")).to_have_text("starting")
    expect(opened.page.locator("#clients-none")).to_be_visible()
    expect(opened.page.locator("#incidents-none")).to_have_text("No incident has been reported.")
    expect(opened.page.locator("#readout")).to_have_text("No round has ended yet.")


def test_the_table_of_clients(served: Served, opened: Tab, tmp_path: Path) -> None:
    odd = client(
        state="late", why="trains version 1 for 9 s, 3 s past its time", refused={"not finite": 2}, clipped=1,
        behind=2, drifted=True, cosine=-0.5, mean_s=None,
    )  # fmt: skip
    clients = {"edge-10": client(), "edge-2": odd, "edge-1": {"state": "refused", "why": "columns differ"}}
    status_file.write(tmp_path / "fleet.json", shown(clients))
    visit(opened, served)
    rows = opened.page.locator("#client-table tbody tr")
    expect(rows).to_have_count(3)
    cells = [
        [" ".join(cell.translate(DASHES).split()) for cell in row.locator("th, td").all_inner_texts()]
        for row in rows.all()
    ]
    assert cells == [
        ["edge-1", "refused columns differ", "-", "-", "-", "0", "0", "-", "-", "-", "-", "-", "-"],
        ["edge-2", "late, drifted trains version 1 for 9 s, 3 s past its time", "3", "2", "0", "3",
         "2 not finite, 1 clipped", "0.5", "-0.50", "0.25", "-", "12 kB", "3.4 MB"],
        ["edge-10", "idle", "3", "0", "0", "3", "0", "0.5", "0.75", "0.25", "1.5 s", "12 kB", "3.4 MB"],
    ]  # fmt: skip
    assert opened.text("#figures").split("\n")[:8] == [
        "Model version", "3", "Error", "0.125", "best 0.0625", "Clients", "2", "of 3 known",
    ]  # fmt: skip


def test_markup_from_clients_is_shown_as_text(served: Served, opened: Tab, tmp_path: Path) -> None:
    clients = {HOSTILE: client(state="refused", why=HOSTILE, refused={HOSTILE: 1}), "x" * 5000: client()}
    status_file.write(tmp_path / "fleet.json", shown(clients, waiting=HOSTILE, strategy=HOSTILE))
    served.history.add_round(finished(1, error=None, failed={HOSTILE: HOSTILE}), [])
    cause = {"feature": HOSTILE, "share": 0.5, "value": 1.0, "expected": None}
    assert served.post(packed(client=HOSTILE, alert={"causes": [cause]})) == (204, "")
    visit(opened, served)
    expect(opened.page.locator("#client-table tbody tr")).to_have_count(2)
    expect(opened.page.locator("#waiting")).to_contain_text(HOSTILE)
    expect(opened.page.locator("#readout")).to_contain_text(HOSTILE[:60])
    expect(opened.page.locator("details strong")).to_contain_text(HOSTILE[:60])
    expect(opened.page.locator("details tbody th")).to_contain_text(HOSTILE[:60])
    expect(opened.page.locator("#client-table tbody th").first).to_contain_text(HOSTILE)
    assert opened.page.locator("img").count() == 1  # the page's own
    assert opened.page.locator("body script").count() == 0
    assert opened.page.title() == "(1) version 3 · flockwatch"
    assert opened.overflow() <= 0
    opened.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert opened.overflow() <= 0


def test_a_narrower_window_does_not_overflow_before_the_chart_is_redrawn(served: Served, opened: Tab) -> None:
    served.history.add_round(finished(1), [])
    opened.page.add_init_script("window.ResizeObserver = class { observe() {} };")
    visit(opened, served)
    expect(opened.page.locator("#chart svg")).to_be_visible()
    opened.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert opened.overflow() <= 0


def test_the_browser_blocks_other_origins(served: Served, opened: Tab) -> None:
    visit(opened, served)
    with opened.page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        opened.page.evaluate(
            """() => {
                const script = document.createElement("script");
                script.textContent = "document.title = 'taken'";
                document.body.append(script);
            }"""
        )
    assert opened.page.title() != "taken"
    assert [("Content Security Policy" in error) for error in opened.errors] == [True]
    opened.errors.clear()


def test_the_page_can_be_used_by_keyboard(served: Served, opened: Tab, tmp_path: Path) -> None:
    status_file.write(tmp_path / "fleet.json", shown({"a": client(), "b": client(state="gone")}))
    for number in range(1, 13):
        served.history.add_round(finished(number, error=2.0**-number), [])
    served.post(packed())
    visit(opened, served)
    page, keys = opened.page, opened.page.keyboard
    expect(page.locator("details")).to_have_count(1)
    expect(page.locator("#client-table tbody tr")).to_have_count(2)
    keys.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    keys.press("Tab")
    expect(page.locator("#chart")).to_be_focused()
    for key, number in {"Home": 1, "ArrowRight": 2, "PageUp": 12, "ArrowLeft": 11, "End": 12}.items():
        keys.press(key)
        expect(page.locator("#readout")).to_contain_text(f"Round {number} ·")
        assert f"Round {number} ·" in (page.locator("#chart").get_attribute("aria-valuetext") or "")
    keys.press("Tab")
    expect(page.locator("summary")).to_be_focused()
    expect(page.locator("details")).to_have_attribute("open", "")
    keys.press("Enter")
    expect(page.locator("details")).not_to_have_attribute("open", "")
    keys.press("Tab")
    keys.press("Tab")
    keys.press("Tab")
    keys.press("Space")
    assert page.evaluate("document.activeElement.textContent") == "gone 1"
    expect(page.locator("#client-table tbody tr")).to_have_count(1)


def test_expanded_incidents_stay_expanded_when_others_arrive(
    served: Served, opened: Tab, tmp_path: Path
) -> None:
    status_file.write(tmp_path / "fleet.json", shown({"a": client()}))
    served.post(packed(id="1"))
    visit(opened, served)
    first = opened.page.locator("details")
    expect(first).to_have_attribute("open", "")
    first.locator("summary").focus()
    served.post(packed(id="2", client="edge-8"))
    expect(opened.page.locator("details")).to_have_count(2)
    served.post(packed(id="1", kind="incident_ended", ended=1e9 + 5, events=7))
    older = opened.page.locator("details", has_text="edge-7")
    expect(older.locator(".chip")).to_have_text("ended")
    expect(older).to_have_attribute("open", "")
    expect(older.locator(".facts")).to_contain_text("7 alerts")


def test_the_page_reports_a_server_that_stops_and_returns(tmp_path: Path) -> None:
    status_file.write(tmp_path / "fleet.json", shown({"a": client()}))
    with tab() as opened:
        port = free_port()  # that nobody takes while there is no server
        served = Served(tmp_path, port=port)
        visit(opened, served)
        expect(opened.page.locator("#updated")).to_contain_text("live ·")
        assert opened.errors == []
        served.close()
        expect(opened.page.locator("#disconnected")).to_contain_text("The server does not answer")
        expect(opened.page.locator("#updated")).to_have_text("not live")
        assert all("ERR_CONNECTION" in error or "ERR_EMPTY" in error for error in opened.errors)
        with closing(Served(tmp_path, port=port)):
            expect(opened.page.locator("#disconnected")).to_be_hidden()
            expect(opened.page.locator("#updated")).to_contain_text("live ·")


def test_the_page_reports_an_unreadable_history_and_shows_the_clients(tmp_path: Path) -> None:
    status_file.write(tmp_path / "fleet.json", shown({"a": client()}))
    url = "postgresql://u:hidden@127.0.0.1:1/d"
    with tab() as opened, closing(Served(tmp_path, url)) as served:
        visit(opened, served)
        expect(opened.page.locator("#warnings")).to_contain_text("The history cannot be read")
        expect(opened.page.locator("#client-table tbody tr")).to_have_count(1)
        assert "hidden" not in opened.text("body")


def test_a_replaced_database_replaces_the_rounds(served: Served, opened: Tab) -> None:
    for number in (1, 2, 3):
        served.history.add_round(finished(number), [])
    visit(opened, served)
    expect(opened.page.locator("#readout")).to_contain_text("Round 3 ·")
    empty = json.dumps({"newest": 0, "rounds": []})
    opened.page.route("**/rounds?after=*", lambda route: route.fulfill(body=empty, status=200))
    expect(opened.page.locator("#readout")).to_have_text("No round has ended yet.")
    expect(opened.page.locator("#chart path")).to_have_count(0)
    fresh = {"newest": 1, "rounds": [{**served.json("/rounds")["rounds"][0], "number": 71}]}
    opened.page.route("**/rounds?after=0", lambda route: route.fulfill(body=json.dumps(fresh), status=200))
    expect(opened.page.locator("#readout")).to_contain_text("Round 71 ·")

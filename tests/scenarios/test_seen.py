"""A federation as a person sees it: real processes, a real Chromium, a real PostgreSQL."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from common.processes.children import Processes
from common.security.tokens import edge_token
from server.flower.superlink_process import free_port
from server.storage.history import History
from tests.contracts.browser import DESK, PHONE, tab
from tests.contracts.postgres import PASSWORD, Postgres
from tests.scenarios.fleet import Federation
from tests.scenarios.live import Machine
from tests.waiting import eventually

TOKEN = "one-token-of-the-fleet"


def version(page: Page) -> int:
    """The newest version, as the page shows it once it shows one."""
    shown = page.locator("#figures dd").first
    expect(shown).to_have_text(re.compile(r"^[\d,]+$"))
    return int(shown.inner_text().replace(",", ""))


def row_of(page: Page, client: str) -> str:
    return f"#client-table tbody tr:has(th span:text-is('{client}'))"


@pytest.mark.e2e
def test_a_run_is_seen_as_it_goes(
    federation: Callable[..., Federation], processes: Processes, tmp_path: Path
) -> None:
    port = free_port()
    status = {"server.status": f"127.0.0.1:{port}", "server.alerts_token": TOKEN}
    fleet = federation({"federation.max_rounds": "100000", **status})
    edges = []
    for name in ("edge-1", "edge-2"):
        sink = f"http://edge:{edge_token(TOKEN, name)}@127.0.0.1:{port}/alerts"
        edges.append(Machine(tmp_path, processes, name, fleet.address, sinks=(sink,)))
    fleet.start_server()
    eventually(lambda: fleet.log("run") or "superlink ready" in fleet.log("server"))
    with tab() as opened:
        page = opened.page
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator("#clients-none")).to_be_visible()
        for edge in edges:
            edge.start()
            edge.feed(800)

        # Rounds grow.
        expect(page.locator("#readout")).to_contain_text(re.compile(r"Round [1-9]\d* · error 0"))
        first = version(page)
        eventually(lambda: version(page) >= first + 3)
        expect(page.locator("#chart path.line")).to_have_count(1)
        expect(page.locator("#client-table tbody tr")).to_have_count(2)

        # An alert, with what it is about.
        eventually(lambda: (edges[0].health()["version"] or 0) > 0)
        edges[0].feed(8, fault=True)
        incident = page.locator("details", has=page.locator(".cause", has_text="f2"))
        expect(incident.locator("summary")).to_contain_text("edge-1")
        expect(incident.locator(".chip")).to_have_text("open")
        if incident.get_attribute("open") is None:
            incident.locator("summary").click()
        causes = incident.locator("tbody tr")
        expect(causes).to_have_count(4)
        expect(causes.first.locator("th")).to_have_text("f2")
        share, seen, expected = causes.first.locator("td").all_inner_texts()
        assert int(share.removesuffix(" %")) > 50
        assert float(seen) > 190 > float(expected.replace("\N{MINUS SIGN}", "-"))
        expect(page).to_have_title(re.compile(r"^\(1\) "))
        edges[0].feed(60)
        expect(incident.locator(".chip")).to_have_text("ended")

        # A client turns away and comes back.
        edges[1].kill()
        expect(page.locator(row_of(page, "edge-2"))).to_have_attribute("data-state", "gone")
        page.get_by_role("button", name="gone 1").click()
        expect(page.locator("#client-table tbody tr")).to_have_count(1)
        edges[1].start()
        back = re.compile("working|idle")
        expect(page.locator(row_of(page, "edge-2"))).to_have_attribute("data-state", back)
        expect(page.locator("#client-table tbody tr")).to_have_count(2)

        # At phone width, with the keyboard.
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        assert opened.overflow() <= 0
        page.locator("#chart").focus()
        page.keyboard.press("Home")
        expect(page.locator("#readout")).to_contain_text("Round 1 ·")
        page.keyboard.press("Escape")
        page.set_viewport_size(DESK)  # type: ignore[arg-type]
        assert opened.errors == []

        # The server is started again: the page says so meanwhile, and goes on from what was.
        before = version(page)
        processes.end(["server"])
        expect(page.locator("#disconnected")).to_contain_text("The server does not answer")
        fleet.start_server()
        expect(page.locator("#disconnected")).to_be_hidden(timeout=60_000)
        eventually(lambda: version(page) > before)
        opened.errors.clear()
        page.reload()
        expect(incident.locator(".chip")).to_have_text("ended")
        page.locator("#chart").focus()
        page.keyboard.press("Home")
        expect(page.locator("#readout")).to_contain_text("Round 1 ·")
        assert opened.errors == []


@pytest.mark.e2e
def test_history_in_postgresql_outlives_the_server_and_gives_no_password_away(
    federation: Callable[..., Federation], tmp_path: Path
) -> None:
    postgres = Postgres()
    try:
        settings = tmp_path / "settings.yaml"
        settings.write_text(json.dumps({"server": {"database": postgres.url()}}))
        fleet = federation({"federation.max_rounds": "3"})
        fleet.config = settings
        fleet.start_server()
        words = [word for p in psutil.Process().children(recursive=True) for word in p.cmdline()]
        for name in ("a", "b"):
            fleet.start_client(fleet.rows(name))
        fleet.finish()
        with closing(History(postgres.url())) as history:
            rounds = history.rounds()
        assert [row["version"] for row in rounds if row["kind"] == "train"] == [1, 2, 3]
        assert {reply["client"] for row in rounds for reply in row["replies"]} == {"a", "b"}
        assert not list(fleet.state.glob("history.sqlite*"))
        secrets = (PASSWORD, "s3cret%2Fword")
        assert not [word for word in words if any(secret in word for secret in secrets)]
        for path in tmp_path.rglob("*"):
            if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets):
                assert path == settings or (path.name, path.stat().st_mode & 0o77) == ("settings.yaml", 0)
    finally:
        postgres.remove()


def test_a_server_whose_database_cannot_be_reached_trains_and_says_so_without_the_password(
    federation: Callable[..., Federation],
) -> None:
    fleet = federation({"server.database": "postgresql://u:not-to-be-seen@127.0.0.1:1/d"})
    fleet.start_server()
    for name in ("a", "b"):
        fleet.start_client(fleet.rows(name))
    eventually(lambda: fleet.version() >= 2)
    eventually(lambda: "postgresql://u:***@127.0.0.1:1/d" in fleet.trouble().get("history", ""))
    assert fleet.processes.exit_code("server") is None
    for path in fleet.state.rglob("*"):
        if path.is_file() and b"not-to-be-seen" in path.read_bytes():
            assert (path.name, path.stat().st_mode & 0o77) == ("settings.yaml", 0)

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from client.connectors.addresses import AddressError
from client.connectors.sinks import SINKS, open_sink

ADDRESSES = {
    "stdout": "stdout:",
    "file": "file:alerts.jsonl?max_mb=0.5&keep=2",
    "http": "http://edge:geheim@host:8080/hook?a=b",
    "https": "https://[::1]/",
    "mqtt": "mqtt://edge:geheim@host/plant/alerts?client_id=edge&retain=true",
    "mqtts": f"mqtts://host:8884/t?ca={__file__}",
}


@pytest.mark.parametrize("scheme", SINKS)
def test_opening_reaches_out_to_nobody(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_sink(ADDRESSES[scheme]).close()
    assert list(tmp_path.iterdir()) == []


def test_a_sink_loads_no_library_of_another() -> None:
    program = (
        "import sys; from client.connectors.sinks import open_sink; open_sink('file:x');"
        "print([m for m in ('paho', 'http.client', 'ssl') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[4], capture_output=True, check=True
    )
    assert done.stdout.strip() == b"[]"


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("alerts.jsonl", "no scheme"),
        ("ftp://host/x", "unknown scheme 'ftp'; expected one of: stdout, file, http"),
        ("stdout:x", "'x' after the colon"),
        ("stdout:?colour=red", "unknown option 'colour'"),
        ("file:", "expected file:PATH"),
        ("file://host/path", "expected file:PATH"),
        ("file:a?days=3", "unknown option 'days'; expected one of: max_mb, keep"),
        ("file:a?keep=none", "keep is 'none'"),
        ("file:a?max_mb=0", "max_mb is '0'"),
        ("http:///path", "expected http(s)://HOST[:PORT]/PATH"),
        ("http://host:port/", "expected http(s)://HOST[:PORT]/PATH"),
        ("http://host:0/", "expected http(s)://HOST[:PORT]/PATH"),
        ("http://[::1", "expected http(s)://HOST[:PORT]/PATH"),
        ("http://two..dots/", "expected http(s)://HOST[:PORT]/PATH"),
        ("https://host/a b", "percent-encoded"),
        ("https://host/ä", "percent-encoded"),
        ("http://edge:geheim/x@host/", "expected http(s)://HOST[:PORT]/PATH"),
        ("mqtt://host", "no topic"),
        ("mqtt:host/topic", "expected mqtt://HOST/TOPIC"),
        ("mqtt://host:x/topic", "expected mqtt://HOST/TOPIC"),
        ("mqtt://host/plant/#", "wildcard"),
        ("mqtt://host/t?qos=0", "unknown option 'qos'; expected one of: client_id, ca, retain"),
        ("mqtt://host/t?retain=yes", "retain is 'yes'"),
        ("mqtt://edge:geheim@host/t?ca=x", "ca is an option of mqtts only"),
        ("mqtts://edge:geheim@host/t?ca=/no/such", "no file /no/such"),
        ("mqtts://edge:geheim@host/t?colour=red", "unknown option 'colour'"),
    ],
)
def test_an_address_that_can_never_work_is_refused_by_name_and_without_its_password(
    address: str, part: str
) -> None:
    with pytest.raises(AddressError) as caught:
        open_sink(address)
    message = str(caught.value)
    assert part in message
    assert message.startswith(address.replace("geheim/x", "***").replace("geheim", "***"))
    assert "geheim" not in message

from __future__ import annotations

import pytest

from client.connectors.addresses import Address, AddressError
from client.connectors.sinks import SINKS, open_sink
from client.connectors.sources import SOURCES, open_source


@pytest.mark.parametrize(
    ("text", "scheme", "place", "options"),
    [
        ("file:a.csv?follow=true&speed=60", "file", "a.csv", {"follow": "true", "speed": "60"}),
        ("mqtt://u:p@h/plant/+/#?client_id=a%20b", "mqtt", "//u:p@h/plant/+/#", {"client_id": "a b"}),
        ("TCP://[::1]:7000", "tcp", "//[::1]:7000", {}),
        ("stdin:", "stdin", "", {}),
    ],
)
def test_an_address_is_parsed(text: str, scheme: str, place: str, options: dict[str, str]) -> None:
    result = Address.parse(text)
    assert (result.scheme, result.place, result.options) == (scheme, place, options)


def test_a_password_is_never_shown() -> None:
    for text in ("mqtt://user:secret@host/t", "https://u:se@cret@host/x", "mqtt://user:secret@"):
        assert "secret" not in Address.parse(text).text
        assert "cret" not in Address.parse(text).text
    for text in ("mqtt://user:secret@", "mqtt://user:secret@host", "mqtt://user:secret@host/t?x=1"):
        with pytest.raises(AddressError) as caught:
            open_source(text)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no scheme"),
        ("/var/log/x", "no scheme"),
        ("ftp://x", "unknown scheme 'ftp'; expected one of: file, stdin, tcp"),
        ("file:", "expected file:PATH"),
        ("file://x", "expected file:PATH"),
        ("file:x?folow=true", "unknown option 'folow'; expected one of: follow, speed, rate"),
        ("file:x?follow=yes", "follow is 'yes'; expected true or false"),
        ("file:x?speed=fast", "speed is 'fast'; expected a number above 0"),
        ("file:x?rate=-1", "rate is '-1'"),
        ("file:x?rate=nan", "rate is 'nan'"),
        ("file:x?speed=1&speed=2", "option 'speed' is named twice"),
        ("file:x?speed", "option 'speed' has no value"),
        ("stdin:x", "expected stdin: alone"),
        ("stdin:?x=1", "unknown option 'x'; stdin: has none"),
        ("tcp:x", "expected tcp://HOST:PORT"),
        ("tcp://x", "expected tcp://HOST:PORT"),
        ("tcp://x:99999", "expected tcp://HOST:PORT"),
        ("tcp://127.0.0.1:0?x=1", "unknown option 'x'"),
        ("mqtt:x", "expected mqtt://HOST/TOPIC"),
        ("mqtt://host", "no topic"),
        ("mqtt://host:x/t", "expected mqtt://HOST/TOPIC"),
        ("mqtt://host/t?ca=x", "ca is an option of mqtts only"),
        ("mqtts://host/t?ca=/nowhere", "no file /nowhere"),
        ("mqtt://host/t?qos=0", "unknown option 'qos'"),
        ("host:x", "expected host: alone"),
        ("host:?interval_s=0", "interval_s is '0'"),
        ("host:?x=1", "unknown option 'x'"),
    ],
)
def test_a_wrong_source_is_named(text: str, problem: str) -> None:
    with pytest.raises(AddressError) as caught:
        open_source(text)
    assert problem in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pager", "no scheme"),
        ("tcp://x:1", "unknown scheme 'tcp'; expected one of: stdout, file, http"),
        ("stdout:x", "expected stdout: alone"),
        ("stdout:?x=1", "unknown option 'x'"),
        ("file:", "expected file:PATH"),
        ("file:x?max_mb=0", "max_mb is '0'"),
        ("file:x?size=1", "unknown option 'size'; expected one of: max_mb, keep"),
        ("http:///x", "expected http(s)://HOST[:PORT]/PATH"),
        ("http://host:port/x", "expected http(s)://HOST[:PORT]/PATH"),
        ("mqtt://host/a/+/b", "has a wildcard"),
        ("mqtt://host/a?retain=1", "retain is '1'; expected true or false"),
        ("mqtt://host/a?x=1", "unknown option 'x'"),
    ],
)
def test_a_wrong_sink_is_named(text: str, problem: str) -> None:
    with pytest.raises(AddressError) as caught:
        open_sink(text)
    assert problem in str(caught.value)


def test_every_scheme_names_a_class_that_exists() -> None:
    from importlib import import_module

    for package, table in (("client.connectors.sources", SOURCES), ("client.connectors.sinks", SINKS)):
        for target in table.values():
            module, _, name = target.partition(":")
            assert hasattr(getattr(import_module(f"{package}.{module}"), name), "at")

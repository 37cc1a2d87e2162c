"""The command line: wrong input ends with one line, before any process starts."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from common.config import load
from common.processes.packages import python_module
from flockwatch.arguments import parser
from flockwatch.cli import main
from flockwatch.flags import overrides

GOOD = "a,b\n" + "\n".join(f"{i},{i * i % 7}" for i in range(60)) + "\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the line that a command with wrong input ends with."""
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.strip().splitlines()
    return line


@pytest.mark.parametrize("command", ["server", "client", "local"])
def test_an_unknown_key_is_named_with_its_file_and_a_suggestion(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text("federation:\n  max_round: 3\n")
    line = fails(capsys, command, "--config", "mine.yaml")
    assert line == (
        "flockwatch: mine.yaml: unknown key 'federation.max_round'; did you mean 'federation.max_rounds'?"
    )


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("training.epochs=many", "--set training.epochs: 'training.epochs' is 'many': .* valid integer"),
        ("federation.quorum=2", "--set federation.quorum: .*less than or equal to 1"),
        ("scaling.by=moon", "--set scaling.by: .*'fleet', 'client' or 'none'"),
        ("epochs", "--set epochs: expected section.key=value"),
        ("data.label=split", "--set data.label: .*must name different columns"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_named(setting: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(expected, fails(capsys, "local", "--set", setting))


def test_a_wrong_environment_variable_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOCKWATCH_MODEL__WINDOW", "0")
    assert "environment FLOCKWATCH_MODEL__WINDOW: 'model.window' is 0" in fails(capsys, "local")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n", "no rows"),
        (GOOD.replace("\n5,", "\n5 C,"), "numbers as text: 'a' ('5 C')"),
        (GOOD.replace(",", ";"), "separated by ';'"),
        ("host,b\nweb,1 %\ndb,2 %\n", "numbers as text: 'b' ('1 %')"),
    ],
)
def test_a_bad_data_file_is_named_before_anything_starts(
    text: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("edge.csv").write_text(text)
    line = fails(capsys, "client", "--data", "edge.csv")
    assert "edge.csv" in line
    assert expected in line
    assert line == fails(capsys, "local", "--data", "edge.csv", "--clients", "2")


def test_a_listed_feature_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("edge.csv").write_text(GOOD)
    line = fails(capsys, "client", "--data", "edge.csv", "--set", "data.features=[a, c]")
    assert "edge.csv: no column 'c', which 'data.features' lists; it has a, b" in line


def test_files_of_different_schemas_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("fleet").mkdir()
    Path("fleet/one.csv").write_text(GOOD)
    Path("fleet/two.csv").write_text(GOOD.replace("a,b", "a,c"))
    line = fails(capsys, "local", "--data", "fleet")
    assert "client 'two'" in line
    assert "missing 'b'; extra 'c'" in line


def test_a_client_without_data_ends_with_the_name_of_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'client.data' is not set" in fails(capsys, "client")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--data", "edge.csv"], "'local.clients' is not set"),
        (["--data", "edge.csv", "--clients", "100"], "cannot be divided|too few"),
        (["--data", "edge.csv", "--clients", "2", "--partition", "column"], "column"),
        (["--data", ".", "--clients", "2"], "folder of files"),
    ],
)
def test_data_that_does_not_fit_the_flags_is_named(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("edge.csv").write_text(GOOD)
    assert re.search(expected, fails(capsys, "local", *arguments))


def test_wrong_input_creates_no_folder_for_results(capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, "local", "--data", "nowhere.csv")
    assert not Path("runs").exists()


def test_the_help_of_every_command_has_examples_that_can_be_parsed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    actions = next(action for action in parser()._actions if isinstance(action.choices, dict))
    assert isinstance(actions.choices, dict)
    for command in actions.choices:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        examples = re.findall(r"^  flockwatch (.*)$", capsys.readouterr().out, re.MULTILINE)
        assert examples or command == "trainer"
        for example in examples:
            words = shlex.split(example.partition("<")[0], comments=True)
            options = parser().parse_args(words)
            assert options.run.__name__ == words[0] == command
            load(None, overrides(options), {})


def test_the_command_and_the_module_print_the_version() -> None:
    for command in ([str(Path(sys.executable).parent / "flockwatch")], python_module("flockwatch")):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert re.fullmatch(r"flockwatch \d+\.\d+\.\d+", done.stdout.strip())

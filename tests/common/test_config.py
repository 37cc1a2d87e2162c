from __future__ import annotations

import ast
import inspect
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common import settings as settings_module
from common.config import ConfigError, load, save
from common.settings import REMOVED_SETTINGS, Settings

CONFIGS = Path(__file__).parents[2] / "configs"
DEFAULTS = CONFIGS / "default.yaml"


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "fleet.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def error_of(
    path: Path | None = None, flags: tuple[str, ...] = (), environ: dict[str, str] | None = None
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, flags, environ or {})
    return str(caught.value)


# The files that ship.


def test_the_documented_defaults_are_the_defaults() -> None:
    assert load(DEFAULTS, environ={}) == Settings() == load(environ={})


def test_the_documented_defaults_leave_no_key_out() -> None:
    documented = yaml.safe_load(DEFAULTS.read_text())
    assert {s: list(keys) for s, keys in documented.items()} == {
        s: list(keys) for s, keys in Settings().dump().items()
    }


def test_every_key_of_the_documented_defaults_is_commented() -> None:
    keys = re.findall(r"^  (\w+):(.*)$", DEFAULTS.read_text(), re.MULTILINE)
    assert len(keys) == sum(len(section) for section in Settings().dump().values())
    assert [key for key, rest in keys if "#" not in rest] == []


def test_every_setting_is_described() -> None:
    source = ast.parse(inspect.getsource(settings_module))
    sections = [node for node in source.body if isinstance(node, ast.ClassDef) and node.name != "Section"]
    missing = []
    for section in sections:
        assert ast.get_docstring(section)
        for node, following in pairwise([*section.body, ast.Pass()]):
            described = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if isinstance(node, ast.AnnAssign) and section.name != "Settings" and not described:
                missing.append(f"{section.name}.{ast.unparse(node.target)}")
    assert missing == []


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("**/*.yaml")), ids=lambda path: path.stem)
def test_a_file_that_ships_loads(path: Path) -> None:
    assert isinstance(load(path, environ={}), Settings)


# Precedence.


def test_flags_override_environment_overrides_file_overrides_defaults(tmp_path: Path) -> None:
    path = written(
        tmp_path, "model: {window: 2}\ntraining: {epochs: 2, batch_size: 2}\nfederation: {max_rounds: 2}"
    )
    environ = {"FLOCKWATCH_TRAINING__BATCH_SIZE": "3", "FLOCKWATCH_FEDERATION__MAX_ROUNDS": "3"}
    loaded = load(path, ["federation.max_rounds=4"], environ)
    assert loaded.training.seed == Settings().training.seed
    assert loaded.training.epochs == 2
    assert loaded.training.batch_size == 3
    assert loaded.federation.max_rounds == 4


def test_a_later_flag_overrides_an_earlier_one() -> None:
    assert load(None, ["model.window=2", "model.window=3"], {}).model.window == 3


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOCKWATCH_MODEL__WINDOW", "7")
    assert load().model.window == 7


def test_other_environment_variables_are_left_alone() -> None:
    environ = {"PATH": "/bin", "OTHER__THING": "1", "FLOCKWATCH_PROCESSES": "a/b"}
    assert load(environ=environ) == Settings()


@pytest.mark.parametrize(
    "content", ["", "# nothing\n", "model:\n", "model:\n\ntraining:\n  epochs:  # later\n    1\n"]
)
def test_an_empty_file_or_section_means_the_defaults(tmp_path: Path, content: str) -> None:
    assert load(written(tmp_path, content), environ={}) == Settings()


def test_a_flag_can_fill_a_section_that_the_file_leaves_empty(tmp_path: Path) -> None:
    assert load(written(tmp_path, "model:\n"), ["model.window=3"], {}).model.window == 3


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path) -> None:
    path = written(tmp_path, "training: {learning_rate: 1e-4}")
    assert load(path, ["federation.min_improvement=5e-3"], {}).training.learning_rate == 0.0001
    assert load(path, ["federation.min_improvement=5e-3"], {}).federation.min_improvement == 0.005


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path: Path) -> None:
    assert load(written(tmp_path, "\ufeffmodel: {window: 2}"), environ={}).model.window == 2


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("model.hidden=[8, 4, 8]", (8, 4, 8)),
        ("data.features=[cpu, memory]", ("cpu", "memory")),
        ("client.state=/tmp/x", Path("/tmp/x")),
        ("client.data=null", None),
        ("federation.deadline_s=5", 5.0),
        ("local.compare=false", False),
        ("client.server='[::1]:8000'", "[::1]:8000"),
        ("data.label=is=bad", "is=bad"),
    ],
)
def test_a_flag_is_read_as_yaml(flag: str, expected: Any) -> None:
    section, key = flag.partition("=")[0].split(".")
    assert getattr(getattr(load(None, [flag], {}), section), key) == expected


# Invalid settings. The error names where it was set, the key, and what was expected.

WRONG = [
    ("model.windw: 3", ["unknown key 'model.windw'", "did you mean 'model.window'?"]),
    ("training.epoch: 3", ["unknown key 'training.epoch'", "did you mean 'training.epochs'?"]),
    ("model.zzz: 3", ["unknown key 'model.zzz'", "expected one of", "'window'", "'hidden'"]),
    ("modle.window: 3", ["unknown key 'modle'", "did you mean 'model'?"]),
    ("model.window: ten", ["'model.window' is 'ten'", "valid integer"]),
    ("model.window: 2.5", ["'model.window' is 2.5", "valid integer"]),
    ("model.window: true", ["'model.window' is True", "valid integer"]),
    ("model.window: '3'", ["'model.window' is '3'", "valid integer"]),
    ("model.window: 0", ["'model.window' is 0", "greater than or equal to 1"]),
    ("model.window: null", ["'model.window' is None", "valid integer"]),
    ("model.hidden: []", ["'model.hidden'", "at least 1"]),
    ("model.hidden: [8, 0, 8]", ["'model.hidden.1' is 0", "greater than or equal to 1"]),
    ("model.hidden: 8", ["'model.hidden' is 8", "tuple"]),
    ("model.activation: gelu", ["'model.activation' is 'gelu'", "'relu'", "'linear'"]),
    ("training.optimizer: Adam", ["'training.optimizer' is 'Adam'", "'adam'"]),
    ("training.learning_rate: 0", ["'training.learning_rate' is 0", "greater than 0"]),
    ("training.learning_rate: .inf", ["'training.learning_rate' is inf", "finite"]),
    ("training.learning_rate: .nan", ["'training.learning_rate' is nan"]),
    ("training.holdout: 1", ["'training.holdout' is 1", "less than 1"]),
    ("training.seed: -1", ["'training.seed' is -1", "greater than or equal to 0"]),
    ("scaling.clip: .inf", ["'scaling.clip' is inf", "finite"]),
    ("scaling.clip: 0.5", ["'scaling.clip' is 0.5", "greater than or equal to 1"]),
    ("federation.fraction: 1.5", ["'federation.fraction' is 1.5", "less than or equal to 1"]),
    ("federation.fraction: 0", ["'federation.fraction' is 0", "greater than 0"]),
    ("federation.quorum: .nan", ["'federation.quorum' is nan"]),
    ("federation.min_clients: 0", ["'federation.min_clients' is 0", "greater than or equal to 1"]),
    ("federation.deadline_s: 1 minute", ["'federation.deadline_s' is '1 minute'", "valid number"]),
    ("federation.wait_s: .inf", ["'federation.wait_s' is inf", "finite"]),
    ("federation.strategy: fedmean", ["'federation.strategy' is 'fedmean'", "'fedavg'", "'multikrum'"]),
    ("threshold.quantile: 0.9", ["'threshold.quantile' no longer exists", "'threshold.budget'"]),
    ("threshold.value: 0", ["'threshold.value' is 0", "greater than 0"]),
    ("data.features: cpu", ["'data.features' is 'cpu'", "tuple"]),
    ("data.features: [1]", ["'data.features.0' is 1", "valid string"]),
    ("data.features: []", ["'data.features'", "at least 1"]),
    ("data.features: [cpu, cpu]", ["'data'", "'features'", "twice"]),
    ("server.port: 65536", ["'server.port' is 65536", "less than or equal to 65535"]),
    ("server.state: 5", ["'server.state' is 5", "path"]),
    ("server.keep_versions: 1", ["'server.keep_versions' is 1", "greater than or equal to 2"]),
    ("server.database: mysql://h/d", ["'server.database'", "postgresql://", "sqlite:///"]),
    ("server.alerts_token: short", ["'server.alerts_token'", "16 to 256"]),
    ("server.alerts_token: 12345678901234567890", ["'server.alerts_token'", "expected text"]),
    ("client.name: ../edge", ["'client.name' is '../edge'", "pattern"]),
    ("client.server: localhost", ["'client.server' is 'localhost'", "pattern"]),
    ("client.server: 'http://edge:8000'", ["'client.server' is 'http://edge:8000'", "pattern"]),
    ("local.rows: 99", ["'local.rows' is 99", "greater than or equal to 100"]),
    ("local.compare: 1", ["'local.compare' is 1", "valid boolean"]),
]  # fmt: skip


def as_yaml(setting: str) -> str:
    key, value = setting.split(": ", 1)
    section, name = key.split(".")
    return f"{section}:\n  {name}: {value}\n"


@pytest.mark.parametrize(("setting", "expected"), WRONG, ids=[setting for setting, _ in WRONG])
def test_an_invalid_setting_is_named_wherever_it_is_set(
    tmp_path: Path, setting: str, expected: list[str]
) -> None:
    key, value = setting.split(": ", 1)
    path = written(tmp_path, as_yaml(setting))
    variable = "FLOCKWATCH_" + key.upper().replace(".", "__")
    for message, origin in [
        (error_of(path), str(path)),
        (error_of(environ={variable: value}), f"environment {variable}"),
        (error_of(flags=(f"{key}={value}",)), f"--set {key}"),
    ]:
        assert message.startswith(f"{origin}: ")
        for part in expected:
            assert part in message


@pytest.mark.parametrize("setting", sorted(REMOVED_SETTINGS))
def test_a_setting_that_no_longer_exists_is_named_with_what_to_do(tmp_path: Path, setting: str) -> None:
    key, _, value = setting.partition(": ")
    path = written(tmp_path, as_yaml(f"{key}: {value or 'x'}"))
    message = error_of(path)
    assert message == f"{path}: '{setting}' no longer exists; {REMOVED_SETTINGS[setting]}"


IMPOSSIBLE = [
    ({"federation": {"strategy": "fedprox"}}, ["'federation.strategy'", "'training.proximal_mu'"]),
    ({"scaling": {"by": "none", "clip": 3}}, ["'scaling'", "'clip'", "'by'"]),
    ({"data": {"label": "x", "timestamp": "x"}}, ["'data'", "'label'", "'timestamp'", "different columns"]),
    ({"data": {"features": ["cpu", "label"]}}, ["'data'", "'features'", "'label'", "label column"]),
    ({"data": {"features": ["cpu"], "ignore": ["cpu"]}}, ["'data'", "'cpu'", "'features'", "'ignore'"]),
    ({"server": {"tls_key": "k"}}, ["'server'", "'tls_certificate' and 'tls_key' must be set together"]),
    ({"client": {"tls_ca": "c"}}, ["'client'", "'tls_ca' and 'key' must be set together"]),
    ({"local": {"partition": "column"}}, ["'local'", "partition: column", "column: NAME"]),
    ({"local": {"column": "site"}}, ["'local'", "partition: column", "column: NAME"]),
]


@pytest.mark.parametrize(("values", "expected"), IMPOSSIBLE, ids=str)
def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, values: dict[str, dict[str, Any]], expected: list[str]
) -> None:
    path = written(tmp_path, yaml.safe_dump(values))
    message = error_of(path)
    assert message.startswith(f"{path}: ")
    for part in expected:
        assert part in message


def test_an_impossible_combination_is_blamed_on_the_flag_that_made_it(tmp_path: Path) -> None:
    path = written(tmp_path, "scaling: {clip: 3}")
    assert error_of(path, ("scaling.by=none",)).startswith("--set scaling.by: ")


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path, "model: {window: 0, hidden: []}\nserver: {port: 0}")
    assert error_of(path).endswith("(and 2 more)")


@pytest.mark.parametrize(
    ("content", "line", "expected"),
    [
        ("model:\n  window: 1\n  window: 2\n", 3, "'window' is set twice"),
        ("model: {}\ntraining: {}\nmodel: {}\n", 3, "'model' is set twice"),
        ("model:\n\twindow: 1\n", 2, "is not valid YAML"),
        ("model: [1\n", 2, "is not valid YAML"),
        ("model: {}\n---\nmodel: {}\n", 2, "is not valid YAML"),
        ("model: !!python/object:os.system {}\n", 1, "is not valid YAML"),
        ("? [model]\n: 1\n", 1, "is not valid YAML"),
    ],
)
def test_broken_yaml_is_named_with_its_line(tmp_path: Path, content: str, line: int, expected: str) -> None:
    path = written(tmp_path, content)
    message = error_of(path)
    assert message.startswith(f"{path}:{line}: ")
    assert expected in message


@pytest.mark.parametrize(
    "content",
    [
        "a\0b",
        "data: {label: 2024-13-45}",  # a date to YAML, and no date to Python
        "data: {label: 0x_}",
        "model: {window: !!int ten}",
        pytest.param("[" * 5000, id="nested too deep"),
        "1: 2",
        "model: {1: 2}",
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, content)
    assert error_of(path).startswith(f"{path}")


@pytest.mark.parametrize("text", ["2024-13-45", "0x_", "[1", "!!int ten", "{a: 1", "a: b: c"])
def test_a_flag_that_cannot_be_read_is_named(text: str) -> None:
    assert error_of(flags=(f"data.label={text}",)).startswith("--set data.label: ")


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.text(max_size=40).map(str.encode),
        st.text(alphabet="{}[]:,-?!&*#|>'\"%@` \n\t019.eE_xob~<=model", max_size=30).map(str.encode),
    )
)
def test_any_file_is_settings_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = written(tmp_path_factory.getbasetemp(), content)
    try:
        assert isinstance(load(path, environ={}), Settings)
    except ConfigError as error:
        assert str(error).startswith(str(path))


@pytest.mark.parametrize("key", [".", "model.", ".window", "a.b.c", "model..window"])
def test_a_key_with_dots_in_a_file_is_unknown_as_it_stands(tmp_path: Path, key: str) -> None:
    path = written(tmp_path, f"{key}: 3")
    assert error_of(path).startswith(f"{path}: unknown key '{key}'; ")


@pytest.mark.parametrize(("content", "kind"), [("- model\n", "list"), ("model", "str"), ("3", "int")])
def test_a_file_without_sections_is_refused(tmp_path: Path, content: str, kind: str) -> None:
    path = written(tmp_path, content)
    assert error_of(path) == f"{path}: expected sections such as 'model:', found {kind}"


def test_a_value_in_place_of_a_section_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "model: 5")
    assert error_of(path).startswith(f"{path}: 'model' is 5: ")
    message = error_of(path, ("model.window=3",))
    assert message.startswith("--set model.window: ")
    assert "'model' is already set to 5, which is not a section" in message


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "client: {name: Käse}".encode("latin-1"))
    assert error_of(path).startswith(f"{path}: is not UTF-8 text: ")
    assert error_of(path).endswith("at byte 16")


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert error_of(missing) == f"{missing}: cannot be read: No such file or directory"
    assert error_of(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("model.window", "--set model.window: expected section.key=value"),
        ("window=3", "--set window: expected a key such as federation.max_rounds, found 'window'"),
        ("a.b.c=3", "--set a.b.c: expected a key such as federation.max_rounds, found 'a.b.c'"),
        ("=3", "--set : expected a key"),
        ("model.=3", "--set model.: unknown key 'model.'"),
    ],
)
def test_a_flag_that_names_no_setting_is_refused(flag: str, expected: str) -> None:
    assert error_of(flags=(flag,)).startswith(expected)


def test_a_variable_that_names_no_setting_is_refused() -> None:
    message = error_of(environ={"FLOCKWATCH_MODEL__WINDW": "3"})
    assert message.startswith("environment FLOCKWATCH_MODEL__WINDW: ")
    assert "did you mean 'model.window'?" in message


# Settings as values.


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().model.window = 3


def test_single_values_can_be_replaced_in_a_copy() -> None:
    original = load(None, ["server.host=0.0.0.0"], {})
    changed = original.with_values(server={"port": 9000}, client={"name": "edge-1"})
    assert (changed.server.host, changed.server.port, changed.client.name) == ("0.0.0.0", 9000, "edge-1")
    assert original.server.port == 8000
    assert changed.model == original.model


def test_a_replaced_value_is_checked() -> None:
    with pytest.raises(ValueError, match=r"server\.port\n.*greater than or equal to 1"):
        Settings().with_values(server={"port": 0})


FINITE = st.floats(1e-9, 1e9)
SOME_SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.fixed_dictionaries(
            {"window": st.integers(1, 100), "hidden": st.lists(st.integers(1, 99), min_size=1, max_size=4)}
        ),
        "scaling": st.fixed_dictionaries(
            {"by": st.sampled_from(["fleet", "client"]), "clip": st.none() | st.floats(1, 1e9)}
        ),
        "federation": st.fixed_dictionaries({"deadline_s": FINITE, "quorum": st.floats(0.01, 1)}),
        "data": st.fixed_dictionaries({"ignore": st.lists(st.text(max_size=5), max_size=3)}),
        "client": st.fixed_dictionaries({"data": st.none() | st.sampled_from(["a.csv", "/b/c d.parquet"])}),
    },
)


@settings(max_examples=50, deadline=None)
@given(SOME_SETTINGS)
@example({"data": {"ignore": ["0E0"]}})
def test_saved_settings_load_as_the_same_settings(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fleet.yaml"
    chosen = Settings().with_values(**values)
    dumped = chosen.dump()
    assert json.loads(json.dumps(dumped, allow_nan=False)) == dumped
    save(chosen, path)
    assert load(path, environ={}) == chosen


def test_saved_settings_can_be_read_by_this_user_alone(tmp_path: Path) -> None:
    save(Settings(), tmp_path / "fleet.yaml")
    assert (tmp_path / "fleet.yaml").stat().st_mode & 0o777 == 0o600


def test_no_default_is_infinite() -> None:
    numbers = [v for section in Settings().dump().values() for v in section.values() if isinstance(v, float)]
    assert numbers
    assert all(math.isfinite(number) for number in numbers)


@pytest.mark.parametrize(
    "flag",
    ["server.database=mysql://u:hidden@h/d", "server.alerts_token=hidden", 'server.alerts_token="hid den"'],
)
def test_a_secret_that_is_wrong_is_not_shown(flag: str) -> None:
    assert "hid" not in error_of(flags=(flag,)).replace(flag.partition("=")[0], "")

"""Settings from YAML files, the environment and flags. Every error is reported before a process starts.

A settings file is YAML in sections; `configs/default.yaml` has all of them. Later sources override earlier
ones: the defaults, the file, environment variables (`FLOCKWATCH_FEDERATION__MAX_ROUNDS=10`), flags
(`--set federation.max_rounds=10`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from common.errors import UserError
from common.formats.files import write_atomic
from common.formats.strict_yaml import dump, parse
from common.settings import REMOVED_SETTINGS, Settings

ENV_PREFIX = "FLOCKWATCH_"


class ConfigError(UserError):
    """A setting is not valid; the message names the key, where it was set, and what was expected."""


def load(
    path: Path | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Load settings from a YAML file, the environment, and overrides.

    Args:
        path: A settings file; None: no file.
        overrides: Texts of the form `section.key=value`.
        environ: The environment; None: that of this process.

    Raises:
        ConfigError: a source cannot be read, or a key or a value in it is not valid.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if path is not None:
        values = _read_yaml(path)
    for key, text, origin in [*_from_environment(environ), *_from_flags(overrides)]:
        _put(values, key, text, origin)
        origins[key] = origin
    return _validate(values, origins, str(path) if path else "the defaults")


def save(settings: Settings, path: Path) -> None:
    """Write settings to a YAML file that `load` reads as the same settings.

    Only this user can read the file: an address may contain a password.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomic(path, dump(settings.dump()).encode(), 0o600)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: is not valid YAML: {getattr(error, 'problem', error)}") from error
    except (ValueError, RecursionError) as error:  # for example a date in month 13, or a thousand brackets
        raise ConfigError(f"{path}: contains a value that cannot be read: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections such as 'model:', found {type(values).__name__}")
    return values


def _from_environment(environ: Mapping[str, str] | None) -> Iterator[tuple[str, str, str]]:
    for name, text in (os.environ if environ is None else environ).items():
        if name.startswith(ENV_PREFIX) and "__" in name:
            yield name.removeprefix(ENV_PREFIX).lower().replace("__", "."), text, f"environment {name}"


def _from_flags(overrides: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected section.key=value")
        yield key.strip(), text, f"--set {key.strip()}"


def _put(values: dict[str, Any], key: str, text: str, origin: str) -> None:
    section, dot, name = key.partition(".")
    if not dot or "." in name:
        raise ConfigError(f"{origin}: expected a key such as federation.max_rounds, found '{key}'")
    try:
        value = parse(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{origin}: '{text}' is not a valid YAML value") from error
    existing = values[section] = values.get(section) or {}
    if not isinstance(existing, dict):
        raise ConfigError(f"{origin}: '{section}' is already set to {existing!r}, which is not a section")
    existing[name] = value


def _validate(values: dict[str, Any], origins: Mapping[str, str], source: str) -> Settings:
    # `section:` without any key is an empty section.
    values = {key: {} if value is None else value for key, value in values.items()}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        first = problems[0]
        path = [str(part) for part in first["loc"]]
        key = ".".join(path)
        origin = next(
            (o for k, o in origins.items() if f"{key}.".startswith(f"{k}.") or k.startswith(f"{key}.")),
            source,
        )
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{origin}: {_explain(path, first)}{more}") from None


def _explain(path: list[str], problem: Any) -> str:
    key = ".".join(path)
    if removed := REMOVED_SETTINGS.get(key):
        return f"'{key}' no longer exists; {removed}"
    if removed := REMOVED_SETTINGS.get(f"{key}: {problem['input']}"):
        return f"'{key}: {problem['input']}' no longer exists; {removed}"
    if problem["type"] == "extra_forbidden":
        *sections, name = path
        known = _known_keys(sections)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{'.'.join([*sections, close[0]])}'?" if close else f"expected one of {known}"
        return f"unknown key '{key}'; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"'{key}': {message}" if key else message
    return f"'{key}' is {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _known_keys(path: list[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)

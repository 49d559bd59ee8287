# SPDX-License-Identifier: Apache-2.0
"""Settings of a program: a frozen dataclass, filled from flags, then environment, then a file, then defaults.

    @dataclass(frozen=True, kw_only=True)
    class AgentSettings(Settings):
        cluster_name: str = option("", "name of this cluster")
        node_name: str = option("", "name of this node", env="NODE_NAME")
        listen: tuple[str, ...] = option(("127.0.0.1",), "addresses to listen on")

gives `--cluster-name`, `CLUSTERMESH_CLUSTER_NAME`, `cluster-name:` in the file of `--config`, complete `--help`, and
`--print-config`, which shows the effective values in the file's own format.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import yaml

from meshkit.arguments import Arguments
from meshkit.errors import PermanentError

S = TypeVar("S", bound="Settings")
T = TypeVar("T")

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_HIDDEN: Final = "(hidden)"


class SettingsError(PermanentError):
    """A setting is unknown, missing or malformed; the message names it, where it came from, and what is expected."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of every program's settings."""

    ENV_PREFIX: ClassVar[str] = "CLUSTERMESH_"

    def effective(self) -> dict[str, Any]:
        """Every setting by its file name, secrets hidden: what --print-config shows."""
        return {
            _flag(f): _HIDDEN if f.metadata.get("secret") and getattr(self, f.name) else _plain(getattr(self, f.name))
            for f in dataclasses.fields(self)
        }


def option(
    default: T, help_text: str, *, env: str = "", choices: Sequence[str] = (), metavar: str = "", secret: bool = False
) -> T:
    """A setting with a default and a help text; `env` overrides the derived variable name."""
    metadata = {"help": help_text, "env": env, "choices": tuple(choices), "metavar": metavar, "secret": secret}
    result: T = dataclasses.field(default=default, metadata=metadata)
    return result


def required(help_text: str, *, env: str = "", choices: Sequence[str] = (), metavar: str = "") -> Any:
    """A setting without a default."""
    metadata = {"help": help_text, "env": env, "choices": tuple(choices), "metavar": metavar, "required": True}
    return dataclasses.field(metadata=metadata)


def load(
    cls: type[S],
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    program: str = "",
    version: str = "",
) -> S:
    """The settings. Ends the process (SystemExit) after --help, --version, --print-config, or a mistake (2)."""
    parser = make_parser(cls, program=program, version=version)
    flags = vars(parser.parse_args(argv))
    try:
        settings = resolve(cls, flags, os.environ if environ is None else environ)
    except SettingsError as exc:
        parser.error(str(exc))
    if flags["print_config"]:
        sys.stdout.write(yaml.safe_dump(settings.effective(), sort_keys=False))
        raise SystemExit(0)
    return settings


def make_parser(cls: type[Settings], *, program: str = "", version: str = "") -> argparse.ArgumentParser:
    """Flags for every field, with help, default and variable name."""
    parser = Arguments(
        prog=program or None,
        description=(cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else None,
        epilog="A flag wins over its environment variable, that over the file of --config, that over the default.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with settings, named like the flags")
    parser.add_argument("--print-config", action="store_true", help="print the effective settings and exit")
    if version:
        parser.add_argument("--version", action="version", version=version)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        _add_flag(parser, cls, field, hints[field.name])
    return parser


def describe(cls: type[Settings]) -> dict[str, dict[str, Any]]:
    """Type, choices and whether several are taken, of every setting by its flag: what `enable --set` needs to check values."""
    hints = typing.get_type_hints(cls)
    found: dict[str, dict[str, Any]] = {}
    for field in dataclasses.fields(cls):
        kind, is_list = _kind(hints[field.name])
        choices = field.metadata.get("choices") or ([str(m) for m in kind] if issubclass(kind, StrEnum) else ())
        what = {"PosixPath": "path", "Path": "path"}.get(
            kind.__name__, "str" if issubclass(kind, StrEnum) else kind.__name__
        )
        found[_flag(field)] = {
            "type": what,
            **({"list": True} if is_list else {}),
            **({"choices": list(choices)} if choices else {}),
        }
    return found


def resolve(cls: type[S], flags: Mapping[str, Any], environ: Mapping[str, str]) -> S:
    """The settings from parsed flags (None: not given), environment and the file named by the flag `config`.

    Raises: SettingsError.
    """
    file = _read_file(flags.get("config"))
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(set(file) - {_flag(f) for f in fields.values()}):
        raise SettingsError(f"{flags['config']}: unknown settings: {', '.join(unknown)}")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        given, origin = _find(cls, field, flags, environ, file)
        if origin:
            values[name] = _convert(hints[name], given, origin, field.metadata.get("choices", ()))
        elif field.metadata.get("required"):
            raise SettingsError(f"--{_flag(field)} (or {_env(cls, field)}) must be given")
    try:
        return cls(**values)
    except ValueError as exc:
        raise SettingsError(str(exc)) from exc


def _find(
    cls: type[Settings],
    field: dataclasses.Field[Any],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Mapping[str, Any],
) -> tuple[Any, str]:
    if flags.get(field.name) is not None:
        return flags[field.name], f"--{_flag(field)}"
    if (env := _env(cls, field)) in environ:
        return environ[env], env
    if _flag(field) in file:
        return file[_flag(field)], f"{_flag(field)} in {flags['config']}"
    return None, ""


def _read_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise SettingsError(f"cannot read settings from {path}: {exc}") from exc
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected a mapping of settings")
    return {str(key).replace("_", "-"): value for key, value in content.items()}


def _add_flag(
    parser: argparse.ArgumentParser, cls: type[Settings], field: dataclasses.Field[Any], hint: object
) -> None:
    default = "" if field.default is dataclasses.MISSING else _text(field.default)
    where = f"[{_env(cls, field)}]" + (f" (default: {default})" if default else "")
    where = where if not field.metadata.get("required") else f"{where} (required)"
    help_text = f"{field.metadata.get('help', '')} {where}".strip().replace("%", "%%")
    kind, is_list = _kind(hint)
    names = [f"--{_flag(field)}"]
    if kind is bool:
        parser.add_argument(*names, action=argparse.BooleanOptionalAction, default=None, help=help_text)
        return
    choices = field.metadata.get("choices") or ([str(m) for m in kind] if issubclass(kind, StrEnum) else ())
    metavar = field.metadata.get("metavar") or (f"{{{','.join(choices)}}}" if choices else kind.__name__.upper())
    metavar = {"STR": "TEXT", "INT": "N", "FLOAT": "NUMBER", "PATH": "PATH"}.get(metavar, metavar)
    help_text += " (repeat, or separate with commas)" if is_list else ""
    parser.add_argument(*names, action="append" if is_list else "store", metavar=metavar, default=None, help=help_text)


def _convert(hint: object, value: object, origin: str, choices: Sequence[str]) -> object:
    kind, is_list = _kind(hint)
    if is_list:
        parts = value if isinstance(value, list | tuple) else [value]
        texts = [text.strip() for part in parts for text in str(part).split(",")]
        return tuple(_convert_one(kind, text, origin, choices) for text in texts if text)
    if value is None or (value == "" and _is_optional(hint)):
        return None
    return _convert_one(kind, value, origin, choices)


def _convert_one(kind: type[Any], value: object, origin: str, choices: Sequence[str]) -> object:
    try:
        converted = _bool(value) if kind is bool else kind(value if isinstance(value, int | float) else str(value))
    except ValueError:
        expected = ", ".join(str(m) for m in kind) if issubclass(kind, StrEnum) else kind.__name__
        raise SettingsError(f"{origin}: {value!r} is not valid, expected {expected}") from None
    if choices and str(converted) not in choices:
        raise SettingsError(f"{origin}: {value!r} is not one of {', '.join(choices)}")
    return converted


def _bool(value: object) -> bool:
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(text)


def _kind(hint: object) -> tuple[type[Any], bool]:
    """The scalar type of a field, and whether the field holds several of them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _kind(next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        return _kind(arguments[0])[0], True
    if supertype := getattr(hint, "__supertype__", None):
        return _kind(supertype)
    if not isinstance(hint, type) or not issubclass(hint, str | int | float | Path):
        raise TypeError(f"settings cannot hold {hint}")
    return hint, False


def _is_optional(hint: object) -> bool:
    return type(None) in typing.get_args(hint)


def _flag(field: dataclasses.Field[Any]) -> str:
    return field.name.rstrip("_").replace("_", "-")


def _env(cls: type[Settings], field: dataclasses.Field[Any]) -> str:
    return field.metadata.get("env") or cls.ENV_PREFIX + field.name.rstrip("_").upper()


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path | StrEnum) else value


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

# SPDX-License-Identifier: Apache-2.0
"""A program's settings: one frozen dataclass, filled from flags, then the environment, then defaults.

Each field is declared with `setting(default, help)`. Flags are the field names with dashes; the environment variable is the prefix
and the name in capitals. `--print-config` shows what is in force, and where each value came from.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

from meshkit.errors import PermanentError

T = TypeVar("T")

_HELP: Final = "help"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


class SettingsError(PermanentError):
    """A value does not fit its setting; the message names the flag."""


def setting(default: Any, help_: str) -> Any:
    """Declare one field of a settings class."""
    if isinstance(default, list | dict | set):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={_HELP: help_})
    return dataclasses.field(default=default, metadata={_HELP: help_})


def load(
    cls: type[T], argv: Sequence[str] | None = None, *, prog: str, prefix: str, environ: Mapping[str, str] | None = None
) -> T:
    """The settings of this start. Prints and exits for --help and --print-config. Raises SettingsError for a bad value."""
    parser = _parser(cls, prog)
    given = vars(parser.parse_args(argv))
    environment = os.environ if environ is None else environ
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        flag, variable = f"--{item.name.replace('_', '-')}", f"{prefix}_{item.name.upper()}"
        if given.get(item.name) is not None:
            values[item.name], origin[item.name] = _convert(flag, given[item.name], hints[item.name]), "flag"
        elif variable in environment:
            values[item.name], origin[item.name] = _convert(variable, environment[variable], hints[item.name]), variable
    result = cls(**values)
    if given["print_config"]:
        print_config(result, origin)
        sys.exit(0)
    return result


def print_config(settings: Any, origin: Mapping[str, str]) -> None:
    """Write every setting in force and where it came from, as YAML with comments, to standard output."""
    for item in dataclasses.fields(settings):
        sys.stdout.write(
            f"{item.name.replace('_', '-')}: {getattr(settings, item.name)!s}  # {origin.get(item.name, 'default')}\n"
        )


def _parser(cls: type[Any], prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=(cls.__doc__ or "").splitlines()[0], allow_abbrev=False)
    for item in dataclasses.fields(cls):
        default = item.default if item.default is not dataclasses.MISSING else "none"
        is_flag = isinstance(item.default, bool)
        parser.add_argument(
            f"--{item.name.replace('_', '-')}",
            dest=item.name,
            nargs="?" if is_flag else None,
            const="true" if is_flag else None,
            help=f"{item.metadata.get(_HELP, '')} (default: {default})".replace("%", "%%"),
        )
    parser.add_argument("--print-config", action="store_true", help="print the settings in force and exit")
    return parser


def _convert(where: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            lowered = text.lower()
            if lowered not in _TRUE | _FALSE:
                raise ValueError("write true or false")
            return lowered in _TRUE
        if kind in (int, float, str, Path):
            return kind(text)
        if getattr(kind, "__origin__", None) is tuple:
            inner = kind.__args__[0]
            return tuple(_convert(where, part.strip(), inner) for part in text.split(",") if part.strip())
        options = [a for a in getattr(kind, "__args__", ()) if a is not type(None)]
        return _convert(where, text, options[0]) if options else kind(text)
    except (ValueError, TypeError) as exc:
        raise SettingsError(f"{where}: {text!r} does not fit: {exc}") from exc

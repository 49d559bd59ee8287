# SPDX-License-Identifier: Apache-2.0
"""The words of a command are parsed with no more of typer than they need.

typer hands every value, even one that was not given, to pydantic, whose import costs as much as all the rest of a verb; and it
prepares every verb to run one. Here text is taken as it is, and only the verb that is named is prepared. `typer` is pinned to
one version; a test tells when this has no effect any more.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from typer import Typer, core
from typer._coercion import RuntimeParam, TypeDescriptor, build_runtime_param


@dataclass(frozen=True)
class PlainValue(RuntimeParam):
    """A parameter whose value is text, a list of texts, or what its own parser makes of it."""

    descriptor: TypeDescriptor

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """As typer does it."""
        if value is None or value == ():
            return () if param.multiple or param.nargs == -1 else None
        if self.parameter_info.parser is not None and isinstance(value, str | int | float):
            try:
                return self.parameter_info.parser(str(value))
            except ValueError:
                pass  # typer words it
        elif self.annotation is str and isinstance(value, str):
            return value
        elif self.annotation == list[str] and isinstance(value, list | tuple) and all(type(v) is str for v in value):
            return list(value)
        return self._coerce_value(value, param, ctx)

    def _coerce_value(self, value: Any, param: Any, ctx: Any) -> Any:
        return build_runtime_param(self.descriptor).coerce(value, param, ctx)


def take_plain_values() -> None:
    """From now on every parameter of typer in this process, its own --help included, takes plain values as they are."""
    core.build_runtime_param = _build  # type: ignore[attr-defined]


def _build(descriptor: TypeDescriptor) -> RuntimeParam:
    return PlainValue(descriptor.parameter_info, descriptor.annotation, descriptor)


def only_named(app: Typer, words: Sequence[str]) -> Typer:
    """The application with the one verb that the first word names, or with all where it names none."""
    if not words:
        return app
    commands = [info for info in app.registered_commands if _verb(info) == words[0]]
    groups = [info for info in app.registered_groups if info.name == words[0]]
    if not commands and not groups:
        return app
    narrowed = copy.copy(app)
    narrowed.registered_commands, narrowed.registered_groups = commands, groups
    return narrowed


def _verb(info: Any) -> str:
    return str(info.name or info.callback.__name__.replace("_", "-"))

# SPDX-License-Identifier: Apache-2.0
"""Every module of the product as a syntax tree, and what pyproject.toml says about imports.

Imports are absolute everywhere: the linter refuses relative ones.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
_PURE = re.compile(r"\bPure\b")


@dataclass(frozen=True, slots=True)
class Module:
    """`imports` are dotted names as written, those inside functions too; a name of ours is given as its module."""

    name: str
    docstring: str
    imports: frozenset[str]
    tree: ast.Module

    @property
    def says_pure(self) -> bool:
        return _PURE.search(self.docstring) is not None


@cache
def contracts() -> tuple[Mapping[str, Any], ...]:
    """The import contracts, in order."""
    return tuple(_settings()["contracts"])


def contract(words: str) -> Mapping[str, Any]:
    """The one contract whose name contains these words."""
    (found,) = (c for c in contracts() if words in c["name"])
    return found


@cache
def modules() -> Mapping[str, Module]:
    """Every module of every package that the contracts speak about, by dotted name."""
    paths = {_name(path): path for root in _settings()["root_packages"] for path in (REPOSITORY / root).rglob("*.py")}
    found = {}
    for name, path in sorted(paths.items()):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = frozenset(_imports(tree, paths.keys()))
        found[name] = Module(name, ast.get_docstring(tree) or "", imports, tree)
    return found


def is_within(name: str, parents: frozenset[str]) -> bool:
    """The module is one of `parents` or below one."""
    parts = name.split(".")
    return any(".".join(parts[:n]) in parents for n in range(1, len(parts) + 1))


@cache
def _settings() -> Mapping[str, Any]:
    document = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    settings: Mapping[str, Any] = document["tool"]["importlinter"]
    return settings


def _name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def _imports(tree: ast.Module, ours: Container[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in ours else node.module for name in names)

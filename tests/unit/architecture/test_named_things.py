# SPDX-License-Identifier: Apache-2.0
"""What documents and docstrings point at exists: files and folders by their paths, and names in backticks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

from tests.unit.architecture.source_tree import REPOSITORY, modules

FOLDERS = (
    "agent", "certs", "clustermesh_apiserver", "clustermesh_cli", "deploy", "docs", "e2e", "flows", "kube", "kubeintent",
    "kvstore", "lab", "meshapi", "meshkit", "meshmodel", "meshpeer", "meshpolicy", "scripts", "tests", "typings",
)  # fmt: skip
PATH = re.compile(rf"(?<![\w/.$-])((?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*/])")
FILE = re.compile(r"`([\w./-]+\.(?:py|md|h|c|sh|txtar))`")
DECISION = re.compile(r"\bADRs? (\d+)")
WORD = re.compile(r"`([A-Za-z_][\w.]*)`")
EXAMPLES = {"CLUSTERMESH_CLUSTER_NAME", "c1", "c11"}
LIBRARIES = {"dnslib"}
HISTORY = {"CHANGELOG.md"}


@cache
def _paths() -> frozenset[str]:
    """Every file and folder of the repository, from its top and from each folder above it."""
    tops = [REPOSITORY / folder for folder in FOLDERS]
    found = [path for top in tops for path in (top, *top.rglob("*"))] + list(REPOSITORY.glob("*.*"))
    names = {path.relative_to(REPOSITORY).as_posix() for path in found}
    return frozenset("/".join(PurePosixPath(name).parts[n:]) for name in names for n in range(name.count("/") + 1))


def _docstrings(text: str) -> Iterator[str]:
    if PATH.search(text) is None and FILE.search(text) is None:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _texts() -> Iterator[tuple[Path, str]]:
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix == ".py" and not path.name.endswith("_pb2.py"):
                yield path, "\n".join(_docstrings(path.read_text(encoding="utf-8")))
            elif path.suffix in (".md", ".h", ".c"):
                yield path, path.read_text(encoding="utf-8")
    for path in sorted(REPOSITORY.glob("*.md")):
        if path.name not in HISTORY:
            yield path, path.read_text(encoding="utf-8")


def _is_there(name: str, named_in: Path) -> bool:
    name = name.rstrip("/.")
    is_record = re.fullmatch(r"docs/adr/\d{4}", name) is not None
    if is_record or "*" in name:
        return bool(list(REPOSITORY.glob(name + "*" if is_record else name)))
    return name in _paths() or f"{name}.py" in _paths() or (named_in.parent / name).exists()


def test_each_decision_has_a_number_of_its_own_and_those_that_are_named_exist() -> None:
    numbers = [int(path.name[:4]) for path in (REPOSITORY / "docs" / "adr").glob("*.md")]
    assert len(set(numbers)) == len(numbers)
    named = {int(number) for _, text in _texts() for number in DECISION.findall(text)}
    assert named <= set(numbers)


def test_paths_that_are_named_exist() -> None:
    missing = {
        (path.relative_to(REPOSITORY).as_posix(), name)
        for path, text in _texts()
        for name in (*PATH.findall(text), *FILE.findall(text))
        if not _is_there(name, path)
    }
    assert sorted(missing) == []


def _names() -> set[str]:
    """Every name and word of the product's code."""
    found: set[str] = EXAMPLES | LIBRARIES
    for module in modules().values():
        found.update(module.name.split("."))
        for node in ast.walk(module.tree):
            for field in ("id", "attr", "arg", "name"):
                value = getattr(node, field, None)
                if isinstance(value, str):
                    found.add(value.rpartition(".")[2])
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                found.update(re.findall(r"[\w.-]+", node.value))
                found.update(re.findall(r"\w+", node.value))
    return found


def test_names_in_backticks_are_names_of_the_code() -> None:
    known = _names()
    strange = {
        (module.name, word)
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for word in WORD.findall(ast.get_docstring(node) or "")
        if word not in known and word.rpartition(".")[2] not in known
    }
    assert sorted(strange) == []

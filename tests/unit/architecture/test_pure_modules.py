# SPDX-License-Identifier: Apache-2.0
"""A module that says "Pure" is fenced: the contract covers it, and it reaches no clock, loop, socket, log or file."""

from __future__ import annotations

import ast
import re

import pytest

from tests.unit.architecture.source_tree import Module, contract, is_within, modules

# what no pure module imports, and what no module of ours that a pure one imports may import either
OUTSIDE = frozenset({
    "asyncio", "concurrent", "ctypes", "fcntl", "grpc", "http", "httpx", "importlib", "kubernetes", "logging",
    "multiprocessing", "os", "pyroute2", "secrets", "select", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile",
    "threading", "time", "urllib", "uuid", "watchfiles",
})  # fmt: skip
# modules of ours that act; a pure module decides, others act on what it returns
ACTING = re.compile(r"\.(client|feature|host|node_agent|ops|reflector|runner|session|source|writer)$")
ACTS = frozenset({
    "open", "print", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "unlink", "exists", "is_file", "iterdir",
})  # fmt: skip
# what the machine says, not the caller
ASKS = frozenset({"now", "today", "utcnow", "SystemRandom"})
CONTRACT = "pure modules do no I/O"
TEXT_ONLY = "urllib.parse"
# modules of ours with an outside import that a pure one may use for its values, and which
VALUES = {
    "lab.devkube.api.cluster": "the error and object types of the API",
    "lab.devkube.api.http": "the request type",
    "lab.devkube.api.models": "the schema of the built-in kinds",
    "lab.devkube.api.runtime": "the protocol towards the kubelet",
    "meshkit.decoding": "values of types: what it keeps for threads is how a type is decoded",
}


def _pure() -> list[Module]:
    covered = frozenset(contract(CONTRACT)["source_modules"])
    return [m for m in modules().values() if m.says_pure or is_within(m.name, covered)]


def test_every_module_that_says_pure_is_covered_by_the_contract() -> None:
    covered = frozenset(contract(CONTRACT)["source_modules"])
    assert [m.name for m in modules().values() if m.says_pure and not is_within(m.name, covered)] == []


def test_every_module_of_the_contract_exists_and_says_pure() -> None:
    """Packages say it for their modules: in the charter, or module by module."""
    names = contract(CONTRACT)["source_modules"]
    assert [name for name in names if name not in modules()] == []
    assert [name for name in names if not modules()[name].says_pure] == []


# "`plan` (pure)" and "(`users`, pure)" are of one module, "`kinds`, `view` and `status` are pure" is of all of them
_CALLED_PURE = re.compile(r"`(\w+)`(?: \(pure\)|, pure\))")
_ALL_CALLED_PURE = re.compile(r"((?:`\w+`(?:, | and )?)+) (?:is|are) pure")


def _called_pure(docstring: str) -> list[str]:
    text = " ".join(docstring.split())
    lists = _ALL_CALLED_PURE.findall(text)
    return _CALLED_PURE.findall(text) + [word for listed in lists for word in re.findall(r"`(\w+)`", listed)]


def test_a_charter_can_call_modules_pure_in_three_ways() -> None:
    assert _called_pure("`source` reads, `plan` (pure) and\n(`users`, pure). `view`, `kinds`\nand `status` are pure.") == [
        "plan", "users", "view", "kinds", "status",
    ]  # fmt: skip


def test_every_charter_that_calls_a_module_pure_is_right() -> None:
    """A word that is no module, such as a function, is not allowed either: the test would not look at it."""
    pure = {module.name for module in _pure()}
    called = {f"{package.name}.{word}" for package in modules().values() for word in _called_pure(package.docstring)}
    assert len(called) > 10
    assert sorted(called - pure) == []


def test_only_charters_of_packages_use_the_word_in_lower_case() -> None:
    """A module says "Pure" of all of itself, which the contract then holds it to, or does not use the word."""
    packages = {name.rpartition(".")[0] for name in modules()}
    word = re.compile(r"\bpure(?:ly)?\b")
    assert [m.name for m in modules().values() if m.name not in packages and word.search(m.docstring)] == []


def _is_outside(name: str) -> bool:
    return name.partition(".")[0] in OUTSIDE and name != TEXT_ONLY


@pytest.mark.parametrize("module", _pure(), ids=lambda m: m.name)
def test_a_pure_module_reaches_nothing_outside(module: Module) -> None:
    for name in sorted(module.imports):
        assert not _is_outside(name), f"{module.name} imports {name}"
        known = modules().get(name)
        if known is None:
            continue
        assert not ACTING.search(name), f"{module.name} imports {name}, which acts"
        if name not in VALUES:
            reached = sorted(n for n in known.imports if _is_outside(n))
            assert not reached, f"{module.name} imports {name}, which imports {', '.join(reached)}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert called not in ACTS | ASKS, f"{module.name}:{node.lineno} calls {called}"

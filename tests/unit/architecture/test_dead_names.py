# SPDX-License-Identifier: Apache-2.0
"""Every function, method, class and constant of the product is named somewhere else in the product."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.unit.architecture.source_tree import Module, modules

FOR_TESTS = {
    "ManualClock": "the clock of tests",
    "ManualClock.run_for": "the clock of tests",
    "MemoryMap.fail_after": "the twin of the kernel's maps fails when a test says so",
    "MemoryMap.set_room": "the twin of the kernel's maps is small when a test says so",
    "MemoryStore": "the twin of etcd's client",
    "leftovers": "what tests of the lab's removal compare with nothing",
    "run_packet": "runs a program of the datapath on one packet",
}
CALLED_BY_LIBRARIES = {
    "SpdyExec.pause_writing",
    "SpdyExec.resume_writing",
    "UdpServer.datagram_received",
    "_Handler.do_GET",
    "_Handler.log_message",
}


def _named(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _defined(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[str, str]]:
    """The name as people say it, and the word others would use. What is decorated is registered somewhere."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("__") and not node.decorator_list:
                yield owner + node.name, node.name
        elif isinstance(node, ast.ClassDef):
            yield node.name, node.name
            yield from _defined(node.body, f"{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not owner:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and not target.id.startswith("__"):
                    yield target.id, target.id


def test_nothing_is_defined_for_nobody() -> None:
    """A name that only tests use belongs to them, or stands above with the reason."""
    ours = [module for module in modules().values() if not module.name.endswith("_pb2")]
    named = {name for module in ours for name in _named(module)}
    unused = {name for module in ours for name, word in _defined(module.tree.body) if word not in named}
    assert sorted(unused - CALLED_BY_LIBRARIES - FOR_TESTS.keys()) == []
    assert sorted((CALLED_BY_LIBRARIES | FOR_TESTS.keys()) - unused) == []

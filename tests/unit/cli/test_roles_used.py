# SPDX-License-Identifier: Apache-2.0
"""What a program's code names of the Kubernetes API is what its role names, in both directions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kube.resource
from clustermesh_cli.commands.disable import workloads
from kube.resource import Resource
from meshapi import installed

ROOT = Path(__file__).parents[3]
BY_NAME = {
    name: (value,) if isinstance(value, Resource) else value
    for name, value in vars(kube.resource).items()
    if isinstance(value, Resource) or (isinstance(value, tuple) and all(isinstance(v, Resource) for v in value))
}
"""What each name of kube.resource stands for: one resource, or those that are read together."""
FOLDERS = {installed.AGENT: "agent", installed.APISERVER: "clustermesh_apiserver"}
ASKED_BY_LIBRARIES = {"events", "tokenreviews", "subjectaccessreviews"}
"""kube/events.py and kube/review.py ask for these on behalf of both programs."""


def resources_of(folder: str) -> Iterator[str]:
    """The resources that the modules of a program import, or name as an attribute of `kube.resource`."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "kube.resource":
                yield from (r.plural for a in node.names for r in BY_NAME.get(a.name, ()))
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in BY_NAME:
                yield from (r.plural for r in BY_NAME[node.attr])


def granted(program: str) -> set[str]:
    rules = [
        rule
        for o in workloads("mesh-system")
        if o["kind"] in ("Role", "ClusterRole") and o["metadata"]["name"].startswith(program)
        for rule in o["rules"]
    ]
    return {resource.partition("/")[0] for rule in rules for resource in rule.get("resources", ())}


@pytest.mark.parametrize("program", FOLDERS)
def test_a_role_names_what_the_program_names_and_nothing_else(program: str) -> None:
    used = {*resources_of(FOLDERS[program]), *ASKED_BY_LIBRARIES}
    assert granted(program) - used == set(), "granted, and named nowhere in the program"
    assert used - granted(program) == set(), "named in the program, and not granted"

# SPDX-License-Identifier: Apache-2.0
"""One word has one meaning: a public class name is given once."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.unit.architecture.source_tree import modules

# the same thing in two forms, in packages that may not import each other or that differ in what they hold
SAME_MEANING = {
    "Direction": "the datapath knows no policies, so that it has the two numbers of the policy map itself",
    "NamedPort": "a port of a pod: a row of the agent's table, and a part of a stored record",
    "NodeAddress": "an address of a node: a row of the agent's table, and a part of a stored record",
}


def test_a_class_name_means_one_thing() -> None:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for module in modules().values():
        if module.name.endswith("_pb2"):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module.name)
    twice = {name: places for name, places in found.items() if len(places) > 1}
    assert {name: places for name, places in twice.items() if name not in SAME_MEANING} == {}
    assert sorted(SAME_MEANING) == sorted(twice)

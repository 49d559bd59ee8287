# SPDX-License-Identifier: Apache-2.0
"""Features of the agent do not import each other, also those that no import contract lists yet; the agent starts each of them."""

from __future__ import annotations

import re

from tests.unit.architecture.source_tree import is_within, modules

_CALLS_WRITERS = "agent.mesh"
"""The written exception: it calls the writers of other features. A contract says which parts of them it may import."""


def _features() -> frozenset[str]:
    return frozenset(name.rpartition(".")[0] for name in modules() if re.fullmatch(r"agent\.\w+\.feature", name))


def test_features_do_not_import_each_other() -> None:
    features = _features()
    found = sorted(
        (module.name, imported)
        for module in modules().values()
        for own in features - {_CALLS_WRITERS}
        if is_within(module.name, frozenset({own}))
        for imported in module.imports
        if is_within(imported, features - {own})
    )
    assert found == []


def test_every_feature_is_started_and_only_node_agent_knows_them() -> None:
    files = {f"{feature}.feature" for feature in _features()}
    importers = {name: files & module.imports for name, module in modules().items() if files & module.imports}
    assert importers == {"agent.node_agent": files}

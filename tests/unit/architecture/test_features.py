# SPDX-License-Identifier: Apache-2.0
"""Features of the agent do not import each other, also those that no import contract lists yet; the agent starts each of them."""

from __future__ import annotations

import re

from tests.unit.architecture.source_tree import is_within, modules

_CALLS_WRITERS = "agent.mesh"
_WRITERS = {
    "agent.identity.writer", "agent.ipcache.writer", "agent.loadbalancer.merge", "agent.loadbalancer.writer",
    "agent.nodes.writer",
}  # fmt: skip
"""The written exception: it calls the writers of other features, and what belongs to their rows; from one module."""


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


def test_the_exception_reaches_writers_only_and_from_one_module() -> None:
    others = _features() - {_CALLS_WRITERS}
    found = {
        (module.name, imported)
        for module in modules().values()
        if is_within(module.name, frozenset({_CALLS_WRITERS}))
        for imported in module.imports
        if is_within(imported, others)
    }
    assert found == {("agent.mesh.ingest", writer) for writer in _WRITERS}


def test_every_feature_is_started_and_only_node_agent_knows_them() -> None:
    files = {f"{feature}.feature" for feature in _features()}
    importers = {name: files & module.imports for name, module in modules().items() if files & module.imports}
    assert importers == {"agent.node_agent": files}

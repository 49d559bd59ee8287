# SPDX-License-Identifier: Apache-2.0
"""Charters that say who imports a package are true, both ways, and foreign worlds have one door each."""

from __future__ import annotations

import re

import pytest

from tests.unit.architecture.source_tree import Module, is_within, modules

_ONLY = re.compile(r"(?:Only|only) ((?:`[\w.]+`(?:, | and )?)+) imports? it\.")
# a library, and the modules that may import it: what is foreign is translated there
DOORS = {
    "pyroute2": {"agent.datapath.netlink", "lab"},
    "ctypes": {"agent.datapath", "meshkit", "lab"},
    "kubernetes": {"kube.config", "lab.devkube.api.models"},
    "prometheus_client": {"meshkit.metrics", "agent", "clustermesh_apiserver.status", "relay.metrics"},
    "watchfiles": {"meshkit"},
}


def _chartered() -> list[tuple[Module, frozenset[str]]]:
    found = ((m, _ONLY.search(" ".join(m.docstring.split()))) for m in modules().values())
    return [(m, frozenset(re.findall(r"`([\w.]+)`", match[1]))) for m, match in found if match]


def test_every_feature_of_the_agent_says_who_imports_it() -> None:
    features = {name.rpartition(".")[0] for name in modules() if re.fullmatch(r"agent\.\w+\.feature", name)}
    assert features - {m.name for m, _ in _chartered()} == set()


@pytest.mark.parametrize(("module", "allowed"), _chartered(), ids=lambda value: getattr(value, "name", ""))
def test_a_package_is_imported_by_those_whom_its_charter_names_and_by_nobody_else(
    module: Module, allowed: frozenset[str]
) -> None:
    own = frozenset({module.name})
    importers = {m.name for m in modules().values() if any(is_within(name, own) for name in m.imports)}
    strangers = sorted(name for name in importers if not is_within(name, own | allowed))
    assert strangers == []
    unused = [name for name in allowed if not any(is_within(i, frozenset({name})) for i in importers)]
    assert unused == []


@pytest.mark.parametrize("library", DOORS)
def test_a_foreign_library_is_imported_behind_its_door_only(library: str) -> None:
    allowed = frozenset(DOORS[library])
    strangers = [
        m.name
        for m in modules().values()
        if any(name.partition(".")[0] == library for name in m.imports) and not is_within(m.name, allowed)
    ]
    assert strangers == []

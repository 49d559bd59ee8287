# SPDX-License-Identifier: Apache-2.0
"""What one place decides is not decided elsewhere: names of what is installed, fields of Kubernetes objects; no sleeps."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from meshapi import installed
from meshmodel import keys, private_keys
from meshmodel.protocol import PROTOCOL_NUMBERS
from tests.unit.architecture.source_tree import REPOSITORY, Module, is_within, modules

PROGRAMS = ("agent", "clustermesh_apiserver", "clustermesh_cli", "meshpeer", "certs", "kvstore", "kube", "lab.daemon")
_COMMON_WORDS = {"clustermesh"}  # the project's name, not only the name of something installed
INSTALLED = {
    value
    for name, value in vars(installed).items()
    if name.isupper() and isinstance(value, str) and len(value) > 8 and value not in _COMMON_WORDS
}
SETTINGS = {installed.CLUSTER_NAME_KEY, installed.CLUSTER_ID_KEY, installed.MAXIMUM_KEY, installed.MIRROR_KEY}
"""Keys of the ConfigMap that are names of settings and fields too."""
OTHER_MEANING = {
    ("clustermesh_cli.announced", "kube-system"),  # where kubeadm's own ConfigMap stands
    ("lab.daemon", "kube-system"),  # where the lab's DNS runs
}
IMAGES: set[tuple[str, bytes | str]] = {("clustermesh_cli.app", "clustermesh/")}
"""Repositories of images."""
PORTS = {value: name for name, value in vars(installed).items() if name.endswith("_PORT") and isinstance(value, int)}
OTHER_NUMBERS = {
    ("agent.datapath.overlay_probe", installed.AGENT_PORT): "a UDP port inside the overlay: PROBE_PORT of bpf/probe.h",
    ("kvstore.clientconfig", installed.STORE_PORT): "etcd's own port, where an endpoint names none",
}
"""The same number as an installed port, decided by somebody else."""

OTHER_PROTOCOLS = {("meshmodel.endpointslice", "TCP")}
"""There it is the default of a field, by the field's number."""

# what only `kubeintent` reads of a Kubernetes object; the kubelet and the controllers of the lab write them
READ_FIELDS = {
    "podIP", "podIPs", "containerPort", "hostNetwork", "podCIDR", "externalIPs", "addressType", "publishNotReadyAddresses",
}  # fmt: skip


def _texts(module: Module) -> Iterator[str]:
    """Every string constant that is no docstring."""
    tree = module.tree
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def _of_programs() -> list[Module]:
    return [m for m in modules().values() if is_within(m.name, frozenset(PROGRAMS))]


def test_what_is_installed_is_named_in_one_module() -> None:
    """A name that stands elsewhere is to be imported from meshapi.installed."""
    wanted = INSTALLED - SETTINGS
    respelled = {(m.name, text) for m in _of_programs() for text in _texts(m) if text in wanted}
    assert sorted(respelled - OTHER_MEANING) == []
    assert sorted(OTHER_MEANING - respelled) == []


def test_ports_of_what_is_installed_are_numbered_in_one_module() -> None:
    found = {
        (module.name, node.value)
        for module in _of_programs()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value in PORTS
    }
    assert found == OTHER_NUMBERS.keys()


def test_keys_of_the_mesh_are_spelled_in_meshmodel() -> None:
    """In bytes or in text: whoever needs a key or a prefix takes it from meshmodel.keys or meshmodel.private_keys."""
    roots = (keys.ROOT, private_keys.ROOT)
    respelled = {
        (module.name, node.value)
        for module in _of_programs()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, bytes | str)
        and (node.value if isinstance(node.value, bytes) else node.value.encode()).startswith(roots)
    }
    assert sorted(respelled - IMAGES) == []


def test_kubernetes_objects_are_read_in_kubeintent() -> None:
    found = {(m.name, text) for m in _of_programs() for text in _texts(m) if text in READ_FIELDS}
    assert sorted(found) == []


def _numbered_protocols(module: Module) -> Iterator[str]:
    """Names of transport protocols that a module gives a number: in an assignment, or in a mapping by name or by number."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=int())):
                yield name.lstrip("_").upper()
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=int())):
                yield name.lstrip("_").upper()
            case ast.Dict(keys=names, values=numbers):
                for pair in zip(names, numbers, strict=True):
                    found = {type(n.value): n.value for n in pair if isinstance(n, ast.Constant)}
                    if {int, str} <= found.keys():
                        yield str(found[str]).upper()


def test_transport_protocols_are_numbered_in_one_module() -> None:
    """Everybody else takes them from meshmodel.protocol."""
    assert set(_numbered_protocols(modules()["meshmodel.protocol"])) == PROTOCOL_NUMBERS.keys()
    found = {
        (module.name, name)
        for module in modules().values()
        if module.name != "meshmodel.protocol"
        for name in _numbered_protocols(module)
        if name in PROTOCOL_NUMBERS
    }
    assert sorted(found - OTHER_PROTOCOLS) == []
    assert sorted(OTHER_PROTOCOLS - found) == []


def _structs(module: Module) -> Iterator[str]:
    """Classes of a module that have a JSON form."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & {
            "Row",
            "msgspec.Struct",
            "Struct",
        }:
            yield node.name


def test_what_the_servers_answer_is_written_down_in_meshapi() -> None:
    """The command and the servers share these structs: one that a server keeps to itself is one its readers spell again."""
    servers = frozenset({"agent", "clustermesh_apiserver", "meshpeer", "kvstore"})
    found = {(m.name, struct) for m in modules().values() if is_within(m.name, servers) for struct in _structs(m)}
    assert found == set()


def _unit_tests() -> list[Path]:
    return sorted((REPOSITORY / "tests/unit").rglob("*.py"))


_SLEEP = re.compile(r"\b(?:time|asyncio)\.sleep\((?!0\))")
_POLLS = {"tests/unit/apiserver/apiserver_wait.py"}
"""Waiting with a bound for what a thread does."""


def test_no_unit_test_sleeps() -> None:
    found = {str(path.relative_to(REPOSITORY)) for path in _unit_tests() if _SLEEP.search(path.read_text())}
    assert found - {"tests/unit/architecture/test_one_home.py"} == _POLLS

# SPDX-License-Identifier: Apache-2.0
"""`policy lint` says what the API server refuses of names, labels and NetworkPolicies, and what it leaves out."""

from __future__ import annotations

from typing import Any

import pytest
from policy_documents import CONTEXT, ccnp, cnp, netpol

from meshpolicy.lint import Finding, Severity, lint

RULE: dict[str, Any] = {"endpointSelector": {}, "ingress": [{}]}


def _with(metadata: dict[str, Any], document: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**(document or cnp(**RULE)), "metadata": metadata}


def _port(value: object) -> dict[str, Any]:
    return netpol(ingress=[{"ports": [{"port": value}]}])


def _block(*excepts: str) -> dict[str, Any]:
    return netpol(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": list(excepts)}}]}])


GROUP = {"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "spec": {"externalCIDRs": ["10.0.0.0/8"]}}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "capital letters in a name": (_with({"name": "Web"}), "metadata.name"),
    "an underscore in a name": (_with({"name": "a_b"}), "metadata.name"),
    "a name that begins with a dash": (_with({"name": "-a"}), "metadata.name"),
    "a name with an empty part": (_with({"name": "a..b"}), "metadata.name"),
    "a name of 254 letters": (_with({"name": "a" * 254}), "metadata.name"),
    "a name of a clusterwide policy": (_with({"name": "Web"}, ccnp(**RULE)), "metadata.name"),
    "a name of a group": (_with({"name": "Web"}, GROUP), "metadata.name"),
    "a name of a NetworkPolicy": (_with({"name": "Web"}, netpol()), "metadata.name"),
    "a NetworkPolicy without a name": (_with({}, netpol()), "metadata"),
    "a dot in a namespace": (_with({"name": "a", "namespace": "a.b"}), "metadata.namespace"),
    "a label key with a blank": (_with({"name": "a", "labels": {"a b": "c"}}), "metadata.labels.a b"),
    "a label value with a dash at its end": (_with({"name": "a", "labels": {"a": "b-"}}), "metadata.labels.a"),
    "a label value that is a number": (_with({"name": "a", "labels": {"a": 1}}), "metadata.labels.a"),
    "labels that are a list": (_with({"name": "a", "labels": ["a"]}), "metadata.labels"),
    "an annotation that is a boolean": (_with({"name": "a", "annotations": {"a": True}}), "metadata.annotations.a"),
    "a number of a port in quotes": (_port("80"), "spec.ingress[0].ports[0].port"),
    "a name of a port in capital letters": (_port("Http"), "spec.ingress[0].ports[0].port"),
    "a name of a port of 16 letters": (_port("a" * 16), "spec.ingress[0].ports[0].port"),
    "an exception of the same size": (_block("10.0.0.0/8"), "spec.ingress[0].from[0].ipBlock.except[0]"),
    "an exception that is larger": (_block("10.0.0.0/7"), "spec.ingress[0].from[0].ipBlock.except[0]"),
    "three policy types": (netpol(policyTypes=["Ingress", "Egress", "Ingress"]), "spec.policyTypes"),
}
TAKEN: dict[str, dict[str, Any]] = {
    "a name with dots": _with({"name": "a-1.b"}),
    "a name of 253 letters": _with({"name": "a" * 253}),
    "a generated name": _with({"generateName": "web-"}, netpol()),
    "labels with a domain": _with({"name": "a", "labels": {"example.org/Team_1": "", "b": "V-1.2"}}),
    "an annotation of any text, its key in capitals": _with({"name": "a", "annotations": {"A.b/c": "x y\n"}}),
    "a name of a port": _port("http-alt"),
    "a port": _port(80),
    "exceptions": _block("10.1.0.0/16", "10.2.0.0/16"),
}


def _serious(document: dict[str, Any]) -> list[Finding]:
    return [found for found in lint([document], CONTEXT) if found.severity is not Severity.NOTE]


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_api_server_refuses_is_an_error(case: str) -> None:
    document, field = REFUSED[case]
    (found,) = (found for found in _serious(document) if found.severity is Severity.ERROR)
    assert found.where.endswith(f": {field}")


@pytest.mark.parametrize("case", TAKEN)
def test_nothing_is_said_of_what_the_api_server_takes(case: str) -> None:
    assert _serious(TAKEN[case]) == []


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (_with({"name": "a", "namespace": "b"}, ccnp(**RULE)), "metadata.namespace"),
        (_with({"name": "a", "namespce": "b"}), "metadata.namespce"),
    ],
    ids=["a namespace of a clusterwide policy", "an unknown field"],
)
def test_what_is_left_out_of_metadata_is_a_warning(document: dict[str, Any], field: str) -> None:
    (found,) = _serious(document)
    assert (found.severity, found.code) == (Severity.WARNING, "left-out")
    assert found.where.endswith(f": {field}")


def test_what_is_no_policy_may_have_any_name() -> None:
    assert _serious({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "A_b"}}) == []

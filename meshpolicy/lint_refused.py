# SPDX-License-Identifier: Apache-2.0
"""What the API server refuses of a document that could be read here: such a policy never comes into force. Pure.

Source: Kubernetes' validation of metadata, for all kinds, and of NetworkPolicy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from meshpolicy.decode import DocumentNode
from meshpolicy.documents import Document, raw_documents, title_of
from meshpolicy.errors import PolicyError
from meshpolicy.parse_peers import parse_cidr_text
from meshpolicy.reference import PolicyKind
from meshpolicy.staged import STAGED_ANNOTATION

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_NAME_PART: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PORT_NAME: Final = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST_NAME: Final = 253
_LONGEST_NAMESPACE: Final = 63
_LONGEST_PORT_NAME: Final = 15
_MOST_TYPES: Final = 2
_CLUSTERWIDE: Final = (PolicyKind.CLUSTERWIDE, PolicyKind.TIERED, PolicyKind.CIDR_GROUP)
_METADATA: Final = frozenset(
    {
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
_KIND_NAMES: Final = (PolicyKind.CILIUM, PolicyKind.KUBERNETES, *_CLUSTERWIDE)


class RefusedField(NamedTuple):
    """One mistake: the document's title with the path of the field, what is wrong, and what to write instead.

    `is_refused`: the object does not come into being. If not, the field is left out.
    """

    where: str
    what: str
    fix: str
    is_refused: bool = True


def refusals(documents: Iterable[Document]) -> Iterator[RefusedField]:
    """What the API server says about documents of our kinds, beside what the parsers refuse."""
    for document in raw_documents(documents):
        if document.get("kind") not in _KIND_NAMES or not isinstance(document.get("metadata"), Mapping | None):
            continue  # the parser says so
        title, root = title_of(document), DocumentNode(document, "")
        for node, what, fix, is_refused in _of_document(root):
            yield RefusedField(f"{title}: {node.path}", what, fix, is_refused)


_Found = Iterator[tuple[DocumentNode, str, str, bool]]


def _of_document(root: DocumentNode) -> _Found:
    kind = str(root.mapping()["kind"])
    yield from _names(root.get("metadata") or root.child("metadata", {}), kind)
    if kind == PolicyKind.KUBERNETES:
        try:
            yield from _kubernetes(root.get("spec") or root.child("spec", {}))
        except PolicyError:
            return  # the parser refuses it


def _names(metadata: DocumentNode, kind: str) -> _Found:
    fields = metadata.mapping()
    name, namespace = fields.get("name"), fields.get("namespace")
    if not name and not fields.get("generateName") and kind == PolicyKind.KUBERNETES:
        yield metadata, "name is missing", "name the policy in metadata.name", True
    if isinstance(name, str) and name and not _is_name(_SUBDOMAIN, name, _LONGEST_NAME):
        fix = 'write at most 253 small letters, digits, "-" and ".", a letter or digit at both ends of each part'
        yield metadata.child("name"), f"{name[:64]!r} is no name for an object", fix, True
    if namespace is not None and kind in _CLUSTERWIDE:
        fix = "leave it out; select the pods of a namespace by k8s:io.kubernetes.pod.namespace"
        yield metadata.child("namespace"), f"a {kind} has no namespace, so it is about all of them", fix, False
    elif isinstance(namespace, str) and namespace and not _is_name(_LABEL, namespace, _LONGEST_NAMESPACE):
        fix = 'write at most 63 small letters, digits and "-", a letter or digit at both ends'
        yield metadata.child("namespace"), f"{namespace[:64]!r} is no name of a namespace", fix, True
    for field in ("labels", "annotations"):
        yield from _texts(metadata.child(field, fields.get(field)), is_label=field == "labels")
    for key in sorted(str(key) for key in fields.keys() - _METADATA):
        fix = "leave it out, or write it as an annotation: kubectl refuses it, others drop it"
        yield metadata.child(key), "unknown field", fix, False


def _texts(node: DocumentNode, *, is_label: bool) -> _Found:
    """Labels, or annotations, whose values may be any text."""
    if node.value is None:
        return
    if not isinstance(node.value, Mapping):
        yield node, "is no map", "indent its entries below it", True
        return
    for key, value in node.value.items():
        entry, text = node.child(str(key)[:64]), str(key) if is_label else str(key).lower()
        domain, slash, name = text.rpartition("/")
        if not _NAME_PART.fullmatch(name) or (slash and not _is_name(_SUBDOMAIN, domain, _LONGEST_NAME)):
            fix = 'write [domain/]name, the name at most 63 letters, digits, "-", "_" or "."'
            yield entry, "is no key of a label or annotation", fix, True
        if not isinstance(value, str | None):
            if key == STAGED_ANNOTATION:
                continue  # the parser says so
            yield entry, "the value is no string", "put it in quotes as it stands", True
        elif is_label and value and not _NAME_PART.fullmatch(value):
            fix = 'write at most 63 letters, digits, "-", "_" or ".", a letter or digit at both ends'
            yield entry, f"{value[:64]!r} is no value of a label", fix, True


def _kubernetes(spec: DocumentNode) -> _Found:
    types = spec.list_of("policyTypes")
    if len(types) > _MOST_TYPES:
        yield spec.child("policyTypes"), f"{len(types)} entries", "write Ingress and Egress once each", True
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec.list_of(direction):
            for item in rule.list_of("ports"):
                port = item.get("port")
                if port is not None and isinstance(port.value, str) and not _is_port_name(port.value):
                    is_number = port.value.isdecimal()
                    fix = f'write at most {_LONGEST_PORT_NAME} small letters, digits and "-", one letter at least'
                    fix = "write the number without quotes" if is_number else fix
                    yield port, f"{port.value[:64]!r} is no name of a port", fix, True
            for peer in rule.list_of(peers):
                block = peer.get("ipBlock")
                if block is not None:
                    yield from _whole_excepts(block)


def _whole_excepts(block: DocumentNode) -> _Found:
    outer = parse_cidr_text(block, block.text_of("cidr"))
    for item in block.list_of("except"):
        if parse_cidr_text(item, item.text()).covers(outer):
            yield item, f"it is all of {outer}, so the peer is nobody", "except only a part of it", True


def _is_name(pattern: re.Pattern[str], text: str, longest: int) -> bool:
    return len(text) <= longest and pattern.fullmatch(text) is not None


def _is_port_name(text: str) -> bool:
    return _is_name(_PORT_NAME, text, _LONGEST_PORT_NAME)

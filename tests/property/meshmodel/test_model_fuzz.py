# SPDX-License-Identifier: Apache-2.0
"""Decoders never crash: whatever the bytes, a decoder returns a record or raises RecordError."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from meshmodel import cluster_config, endpointslice, identity_record, ip, keys, node, service, serviceexport
from meshmodel.errors import ModelError, RecordError
from meshmodel.identity import identity_range
from meshmodel.labels import Label, decode_labels, encode_labels, sort_labels
from meshmodel.names import ClusterId, ClusterName, ServiceName
from tests.support.effort import examples

GOLDEN = Path(__file__).parents[2] / "golden" / "wire"
IDS = identity_range(1)
Decode = Callable[[str, bytes], object]

DECODERS: dict[str, tuple[Decode, str, bytes]] = {
    "service": (
        lambda k, v: service.decode(k, v, cluster="koornacht", cluster_id=1),
        "tour/tickets",
        (GOLDEN / "service-zones.json").read_bytes(),
    ),
    "node": (
        lambda k, v: node.decode(k, v, cluster="koornacht", cluster_id=1),
        "koornacht-worker",
        (GOLDEN / "node-full.json").read_bytes(),
    ),
    "ip": (lambda k, v: ip.decode(k, v, identities=IDS), "192.0.2.0/24", (GOLDEN / "ip-network.json").read_bytes()),
    "identity": (
        lambda k, v: identity_record.decode(k, v, cluster="koornacht", identities=IDS),
        "70001",
        (GOLDEN / "identity-pod.txt").read_bytes(),
    ),
    "export": (
        lambda k, v: serviceexport.decode(k, v, cluster="koornacht"),
        "tour/tickets",
        (GOLDEN / "serviceexport.json").read_bytes(),
    ),
    "slice": (
        lambda k, v: endpointslice.decode(k, v, cluster="blue", cluster_id=1),
        "shop/cart-x7k2p",
        zstandard.ZstdCompressor().compress(bytes.fromhex((GOLDEN / "endpointslice.hex").read_text())),
    ),
    "slice message": (
        lambda k, v: endpointslice.decode(k, zstandard.ZstdCompressor().compress(v), cluster="blue", cluster_id=1),
        "shop/cart-x7k2p",
        bytes.fromhex((GOLDEN / "endpointslice.hex").read_text()),
    ),
    "config": (
        lambda _, v: cluster_config.decode(v),
        "c",
        (GOLDEN / "cluster-config-slices-511.json").read_bytes(),
    ),
}
every_decoder = pytest.mark.parametrize("kind", sorted(DECODERS))
fuzzing = settings(max_examples=examples(150))


def survive(decode: Decode, key: str, value: bytes) -> None:
    refused: RecordError | None = None
    record: object = None
    try:
        record = decode(key, value)
    except RecordError as exc:
        refused = exc
    assert record is not None or refused is not None
    if refused is not None:
        assert refused.reason
        assert len(str(refused).encode()) < 4096


@every_decoder
@fuzzing
@given(key=st.text(max_size=300), value=st.binary(max_size=400))
def test_random_bytes_under_random_keys(kind: str, key: str, value: bytes) -> None:
    survive(DECODERS[kind][0], key, value)


@every_decoder
def test_every_truncation_of_a_good_record(kind: str) -> None:
    decode, key, good = DECODERS[kind]
    decode(key, good)
    for length in range(len(good)):
        survive(decode, key, good[:length])


@every_decoder
@fuzzing
@given(data=st.data())
def test_a_good_record_with_bytes_flipped_inserted_or_removed(kind: str, data: st.DataObject) -> None:
    decode, key, good = DECODERS[kind]
    mutated = bytearray(good)
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(0, len(mutated)))
        end = min(len(mutated), position + data.draw(st.integers(0, 4)))
        mutated[position:end] = data.draw(st.binary(max_size=6))
    survive(decode, key, bytes(mutated))


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "10.0.0.1", "fe80::1%eth0", "fd00::1", "TCP", "////AA==", "\udc80", "a" * 5000])
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", ["service", "node", "ip", "export", "config"])
@fuzzing
@given(data=st.data())
def test_a_good_record_with_a_field_of_another_type(kind: str, data: st.DataObject) -> None:
    decode, key, good = DECODERS[kind]
    document: Any = json.loads(good)
    place = document
    while isinstance(place, dict | list) and place:
        index = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[index], dict | list) or data.draw(st.booleans()):
            place[index] = data.draw(JUNK)
            break
        place = place[index]
    survive(decode, key, json.dumps(document).encode("utf-8", "surrogatepass"))


@fuzzing
@given(st.binary(max_size=120))
def test_keys_are_located_or_refused(key: bytes) -> None:
    for candidate in (key, b"cilium/state/" + key, b"cilium/cache/services/v1/" + key):
        survive(lambda _, value: keys.locate(value) or "none", "", candidate)


words = st.text(st.characters(exclude_characters=";=:", exclude_categories=["Cs"]), min_size=1, max_size=12)
values = st.text(st.characters(exclude_characters=";", exclude_categories=["Cs"]), max_size=12)


@fuzzing
@given(st.lists(st.builds(Label, words, words, values), max_size=8, unique_by=lambda label: (label.key, label.source)))
def test_labels_come_back_sorted_and_whole(labels: list[Label]) -> None:
    """Law: decode(encode(labels)) = sort(labels), and encoding does not depend on the order."""
    assert decode_labels(encode_labels(labels)) == sort_labels(labels)
    assert encode_labels(labels) == encode_labels(reversed(labels))


addresses = st.ip_addresses().map(str)
ports = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.builds(service.RecordPort, st.sampled_from(["TCP", "UDP", "SCTP"]), st.integers(0, 65535)),
    max_size=3,
)
texts = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    max_size=3,
)


@fuzzing
@given(
    st.dictionaries(addresses.filter(lambda a: not a.startswith("::ffff")), ports, max_size=4),
    texts,
    st.booleans(),
)
def test_a_service_comes_back_whole(backends: dict[str, Any], labels: dict[str, str], shared: bool) -> None:
    """Law: decode(encode(service)) = service, and encode is a function of the value alone."""
    record = service.ClusterService(
        cluster=ClusterName("tion"),
        cluster_id=ClusterId(2),
        name=ServiceName("tour", "tickets"),
        frontends=backends,
        backends=backends,
        labels=labels,
        selector=labels,
        shared=shared,
    )
    data = record.encode()
    again = service.decode("tour/tickets", data, cluster="tion", cluster_id=2)
    assert again == record
    assert again.encode() == data
    assert not any(c in data for c in b"<>&")


def test_reserved_words_of_an_error_are_stable() -> None:
    with pytest.raises(ModelError):
        decode_labels(b"k8s:a=;" * 5000)

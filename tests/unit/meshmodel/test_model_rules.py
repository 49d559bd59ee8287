# SPDX-License-Identifier: Apache-2.0
"""T12, T21 and the smaller rules: names, ids, ranges, annotations, keys, labels."""

from __future__ import annotations

import pytest

from agent.datapath import config as config_of_datapath
from meshmodel import keys
from meshmodel.address import canonical_ip, canonical_prefix
from meshmodel.annotations import Affinity, namespace_is_global, parse_service_annotations
from meshmodel.cluster_config import VXLAN_PORT, ClusterConfig, ExportMode, check_peer_config, decode
from meshmodel.errors import ModelError, RecordError
from meshmodel.identity import (
    LOCAL_SCOPE_CIDR,
    IdentityRange,
    identity_name,
    identity_range,
    is_reserved,
)
from meshmodel.keys import Kind
from meshmodel.labels import Label, encode_labels, find_label, is_identity_relevant, parse_label, pod_labels
from meshmodel.names import ClusterId, ClusterName, ServiceName, check_cluster_id, check_maximum, parse_cluster_name
from tests.support import record_keys


@pytest.mark.parametrize("name", ["a", "1", "north", "a-b", "x" * 32, "0-0"])
def test_a_good_cluster_name(name: str) -> None:
    assert parse_cluster_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 33, "North", "-a", "a-", "a_b", "a.b", "a\n", "é", "default"])
def test_a_bad_cluster_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="cluster name"):
        parse_cluster_name(name)


def test_cluster_ids_go_from_one_to_the_maximum() -> None:
    assert check_cluster_id(255) == 255
    assert check_cluster_id(511, 511) == 511
    for number, maximum, text in ((0, 255, "ClusterID 0 is reserved"), (256, 255, "ClusterID > 255 is not supported")):
        with pytest.raises(ModelError, match=text):
            check_cluster_id(number, maximum)
    with pytest.raises(ModelError, match="only 255 and 511"):
        check_maximum(300)


def test_service_names_are_namespace_slash_name() -> None:
    assert ServiceName.parse("tour/tickets") == ServiceName("tour", "tickets")
    assert str(ServiceName("tour", "tickets")) == "tour/tickets"
    for text in ("tour", "/x", "x/", "a/b/c", ""):
        with pytest.raises(ModelError):
            ServiceName.parse(text)


@pytest.mark.parametrize(
    ("cluster_id", "maximum", "first", "last"),
    [
        (0, 255, 256, 65535),
        (1, 255, 65536, 131071),
        (2, 255, 131072, 196607),
        (7, 255, 458752, 524287),
        (255, 255, 16711680, 16777215),
        (1, 511, 32768, 65535),
        (7, 511, 229376, 262143),
        (511, 511, 16744448, 16777215),
    ],
)
def test_identity_ranges(cluster_id: int, maximum: int, first: int, last: int) -> None:
    found = identity_range(cluster_id, maximum)
    assert found == IdentityRange(first, last)
    assert found.contains(first)
    assert found.contains(last)
    assert not found.contains(last + 1)


def test_identities_have_names_and_scopes() -> None:
    assert [identity_name(n) for n in (0, 1, 2, 6, 7, 9, 70001)] == [
        "unknown",
        "host",
        "world",
        "remote-node",
        "kube-apiserver",
        "world-ipv4",
        "70001",
    ]
    assert identity_name(LOCAL_SCOPE_CIDR + 5) == "cidr:5"
    assert is_reserved(255)
    assert not is_reserved(256)
    with pytest.raises(ModelError):
        identity_range(256)


def config(number: int, maximum: int = 255, mode: str = "") -> ClusterConfig:
    return ClusterConfig(id=ClusterId(number), max_connected_clusters=maximum, endpoint_slices_export_mode=mode)


@pytest.mark.parametrize(
    ("peer", "local_maximum", "text"),
    [
        (config(0), 255, "ClusterID 0 is reserved"),
        (config(256, 511), 255, "ClusterID > 255 is not supported"),
        (config(5), 511, "mismatched MaxConnectedClusters; local=511, remote=255"),
        (config(1), 255, "is assigned to the local cluster"),
        (config(3), 255, "is already used by cluster south"),
        (config(4, mode="carrier-pigeon"), 255, "carrier-pigeon"),
        (ClusterConfig(id=ClusterId(4), vxlan_port=8473), 255, "mismatched VXLAN port; local=8472, remote=8473"),
    ],
)
def test_a_peer_is_refused_with_what_to_change(peer: ClusterConfig, local_maximum: int, text: str) -> None:
    taken = {ClusterId(3): ClusterName("south")}
    with pytest.raises(ModelError, match=text):
        check_peer_config(peer, local_id=1, local_maximum=local_maximum, taken=taken, peer="tion")


def test_a_peer_keeps_its_own_id_and_a_mismatch_at_255_is_a_warning() -> None:
    taken = {ClusterId(3): ClusterName("tion")}
    assert check_peer_config(config(3), local_id=1, taken=taken, peer="tion") == ()
    [warning] = check_peer_config(config(3, 511), local_id=1, taken=taken, peer="tion")
    assert "local=255, remote=511" in warning
    assert check_peer_config(config(300, 511), local_id=1, local_maximum=511) == ()


def test_the_port_of_an_overlay_is_said_where_it_is_not_the_one_everybody_assumes() -> None:
    """A cluster of Cilium names none, and reads past ours."""
    usual, chosen = ClusterConfig(id=ClusterId(3)), ClusterConfig(id=ClusterId(3), vxlan_port=8473)
    assert (b"vxlanPort" in usual.encode(), b'"vxlanPort":8473' in chosen.encode()) == (False, True)
    assert (decode(usual.encode()), decode(chosen.mirrored().encode()).vxlan_port) == (usual, 8473)
    assert check_peer_config(chosen, local_id=1, local_vxlan_port=8473) == ()
    with pytest.raises(ModelError, match="local=8473, remote=8472"):
        check_peer_config(usual, local_id=1, local_vxlan_port=8473)
    assert config_of_datapath.VXLAN_PORT == VXLAN_PORT


def test_absent_and_false_capabilities_differ_and_older_shapes_are_read() -> None:
    assert decode(b'{"id":3,"capabilities":{}}') == ClusterConfig(id=ClusterId(3))
    assert decode(b'{"id":3}') == ClusterConfig(id=ClusterId(3))
    assert decode(b'{"id":3,"capabilities":{"serviceExportsEnabled":false}}').service_exports_enabled is False
    assert decode(b'{"id":3}').service_exports_enabled is None
    assert decode(b"{}").id == 0
    modes = {"": ExportMode.SERVICES, "services-and-endpointslices": ExportMode.BOTH}
    for text, mode in modes.items():
        assert config(3, mode=text).export_mode is mode


def test_a_mirrored_config_differs_in_canaries_and_layout_only() -> None:
    mirrored = decode(b'{"id":3,"capabilities":{"serviceExportsEnabled":true}}').mirrored()
    assert (mirrored.id, mirrored.cached, mirrored.synced_canaries, mirrored.service_exports_enabled) == (
        3,
        True,
        True,
        True,
    )


GLOBAL, SHARED, AFFINITY = "service.cilium.io/global", "service.cilium.io/shared", "service.cilium.io/affinity"


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, (False, False, "none")),
        ({GLOBAL: "true"}, (True, True, "none")),
        ({GLOBAL: "TRUE"}, (True, True, "none")),
        ({GLOBAL: " true"}, (False, False, "none")),
        ({GLOBAL: "yes"}, (False, False, "none")),
        ({GLOBAL: "1"}, (False, False, "none")),
        ({"io.cilium/global-service": "true"}, (True, True, "none")),
        ({"io.cilium/global-service": "true", GLOBAL: "false"}, (False, False, "none")),
        ({"io.cilium/global-service": "false", GLOBAL: "true"}, (True, True, "none")),
        ({GLOBAL: "true", SHARED: "false"}, (True, False, "none")),
        ({GLOBAL: "true", SHARED: "no"}, (True, False, "none")),
        ({GLOBAL: "true", SHARED: ""}, (True, False, "none")),
        ({GLOBAL: "true", SHARED: "True"}, (True, True, "none")),
        ({GLOBAL: "true", "io.cilium/shared-service": "false"}, (True, False, "none")),
        ({SHARED: "true"}, (False, False, "none")),
        ({GLOBAL: "true", AFFINITY: "Local"}, (True, True, "local")),
        ({GLOBAL: "true", AFFINITY: "remote"}, (True, True, "remote")),
        ({GLOBAL: "true", AFFINITY: "none"}, (True, True, "none")),
        ({GLOBAL: "true", AFFINITY: ""}, (True, True, "none")),
        ({GLOBAL: "true", AFFINITY: "nearby"}, (True, True, "none")),
        ({GLOBAL: "true", "io.cilium/service-affinity": "local"}, (True, True, "local")),
        ({AFFINITY: "local"}, (False, False, "none")),
    ],
)
def test_service_annotations(annotations: dict[str, str], expected: tuple[bool, bool, str]) -> None:
    found = parse_service_annotations(annotations)
    assert (found.global_, found.shared, found.affinity) == (expected[0], expected[1], Affinity(expected[2]))


@pytest.mark.parametrize(
    ("annotations", "mentioned"),
    [
        ({GLOBAL: "yes"}, GLOBAL),
        ({"io.cilium/global-service": "on"}, "io.cilium/global-service"),
        ({GLOBAL: "true", SHARED: "no"}, SHARED),
        ({GLOBAL: "true", AFFINITY: "nearby"}, "nearby"),
        ({AFFINITY: "local"}, "no effect"),
    ],
)
def test_values_that_mean_nothing_are_told_to_the_owner(annotations: dict[str, str], mentioned: str) -> None:
    [problem] = parse_service_annotations(annotations).problems
    assert mentioned in problem


def test_namespaces_follow_their_annotation_and_else_the_cluster() -> None:
    name = "clustermesh.cilium.io/global"
    assert namespace_is_global({}) is True
    assert namespace_is_global({}, default=False) is False
    assert namespace_is_global({name: "True"}, default=False) is True
    assert namespace_is_global({name: "false"}) is False
    assert namespace_is_global({name: "maybe"}) is False


@pytest.mark.parametrize(
    ("kind", "cached", "prefix", "canary"),
    [
        (Kind.NODES, False, b"cilium/state/nodes/v1/c1/", b"cilium/synced/c1/cilium/state/nodes/v1"),
        (Kind.SERVICES, False, b"cilium/state/services/v1/c1/", b"cilium/synced/c1/cilium/state/services/v1"),
        (Kind.IPS, False, b"cilium/state/ip/v1/default/", b"cilium/synced/c1/cilium/state/ip/v1"),
        (Kind.IDENTITIES, False, b"cilium/state/identities/v1/id/", b"cilium/synced/c1/cilium/state/identities/v1"),
        (
            Kind.ENDPOINT_SLICES,
            False,
            b"cilium/state/endpointslices/v1/c1/",
            b"cilium/synced/c1/cilium/state/endpointslices/v1",
        ),
        (
            Kind.SERVICE_EXPORTS,
            False,
            b"cilium/state/serviceexports/v1/c1/",
            b"cilium/synced/c1/cilium/state/serviceexports/v1",
        ),
        (Kind.NODES, True, b"cilium/cache/nodes/v1/c1/", b"cilium/synced/c1/cilium/cache/nodes/v1"),
        (Kind.IPS, True, b"cilium/cache/ip/v1/c1/", b"cilium/synced/c1/cilium/cache/ip/v1"),
        (Kind.IDENTITIES, True, b"cilium/cache/identities/v1/c1/id/", b"cilium/synced/c1/cilium/cache/identities/v1"),
    ],
)
def test_prefixes_and_canaries_have_their_irregular_shapes(
    kind: Kind, cached: bool, prefix: bytes, canary: bytes
) -> None:
    assert keys.prefix_of(kind, "c1", cached=cached) == prefix
    assert keys.canary_key("c1", kind, cached=cached) == canary


def test_every_record_key_is_below_its_prefix_and_says_what_it_is() -> None:
    for cached in (False, True):
        made = {
            Kind.NODES: (record_keys.node_key("c1", "n1", cached=cached), "n1"),
            Kind.SERVICES: (record_keys.service_key("c1", ServiceName("a", "b"), cached=cached), "a/b"),
            Kind.IPS: (record_keys.ip_key("c1", "fd00::7", cached=cached), "fd00::7"),
            Kind.IDENTITIES: (keys.identity_key("c1", 70001, cached=cached), "70001"),
            Kind.ENDPOINT_SLICES: (record_keys.endpointslice_key("c1", "a", "s", cached=cached), "a/s"),
            Kind.SERVICE_EXPORTS: (record_keys.serviceexport_key("c1", "a/b", cached=cached), "a/b"),
        }
        for kind, (key, suffix) in made.items():
            assert keys.suffix_of(key, keys.prefix_of(kind, "c1", cached=cached)) == suffix
            place = keys.locate(key)
            assert place is not None
            assert (place.kind, place.suffix, place.is_cached) == (kind, suffix, cached)
            assert place.cluster == ("" if not cached and kind in (Kind.IPS, Kind.IDENTITIES) else "c1")
    assert record_keys.ip_key("c1", "10.0.0.0/8") == b"cilium/state/ip/v1/default/10.0.0.0/8"
    assert keys.cluster_config_key("c1") == b"cilium/cluster-config/c1"


def test_other_keys_are_no_records() -> None:
    for key in (
        keys.HEARTBEAT,
        b"cilium/cluster-config/c1",
        b"cilium/state/noderegister/v1/x",
        b"cilium/state/identities/v1/value/k8s:a=b;/10.0.0.1",
        b"other",
    ):
        assert keys.locate(key) is None


@pytest.mark.parametrize("key", [b"cilium/other/x", b"cilium/p/", b"cilium/p/\xff", b"cilium/p/" + b"x" * 3000])
def test_keys_that_are_not_ours_are_refused_before_decoding(key: bytes) -> None:
    with pytest.raises(RecordError) as caught:
        keys.suffix_of(key, b"cilium/p/")
    assert caught.value.reason == "bad-key"


def test_labels_parse_at_the_first_colon_and_the_first_equals_sign() -> None:
    assert parse_label("k8s:a=b") == Label("k8s", "a", "b")
    assert parse_label("any:x=a=b:c") == Label("any", "x", "a=b:c")
    assert parse_label("reserved:host") == Label("reserved", "host", "")
    assert parse_label("app=x:y") == Label("unspec", "app", "x:y")
    with pytest.raises(ModelError):
        parse_label("k8s:=x")
    with pytest.raises(ModelError):
        encode_labels([Label("k8s", "a", "b;c")])


def test_a_pods_identity_has_the_labels_of_ciliums_default_filter() -> None:
    labels = pod_labels(
        {
            "app": "tickets",
            "app.kubernetes.io/name": "tickets",
            "topology.kubernetes.io/zone": "a",
            "pod-template-hash": "6b5",
            "controller-revision-hash": "x",
            "statefulset.kubernetes.io/pod-name": "tickets-0",
            "apps.kubernetes.io/pod-index": "0",
            "kubernetes.io/arch": "amd64",
            "beta.kubernetes.io/arch": "amd64",
            "io.kubernetes.container": "x",
            "io.cilium.k8s.policy.cluster": "somebody-else",
        },
        "tour",
        {"kubernetes.io/metadata.name": "tour", "team": "a"},
        "default",
        "koornacht",
    )
    assert [str(label) for label in labels] == [
        "k8s:app=tickets",
        "k8s:app.kubernetes.io/name=tickets",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=tour",
        "k8s:io.cilium.k8s.namespace.labels.team=a",
        "k8s:io.cilium.k8s.policy.cluster=koornacht",
        "k8s:io.cilium.k8s.policy.serviceaccount=default",
        "k8s:io.kubernetes.pod.namespace=tour",
    ]
    assert find_label(labels, "app") == Label("k8s", "app", "tickets")
    assert not is_identity_relevant("batch.kubernetes.io/controller-uid")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("FD00:0:0::1", "fd00::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::", "::"),
    ],
)
def test_addresses_have_one_form(text: str, canonical: str) -> None:
    assert canonical_ip(text) == canonical


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.01", "0x7f.1", "1.2.3.4.5", "fe80::1%1", "::1/64", "٣.1.1.1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical_ip(text)


def test_prefixes_have_one_form() -> None:
    assert canonical_prefix("10.0.0.7/8") == "10.0.0.0/8"
    assert canonical_prefix("10.0.0.7") == "10.0.0.7/32"
    assert canonical_prefix("FD00::1/64") == "fd00::/64"
    for text in ("10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/255.0.0.0", "10.0.0.0/", "10.0.0.0/²"):
        with pytest.raises(ValueError, match=r"."):
            canonical_prefix(text)

# SPDX-License-Identifier: Apache-2.0
"""What connecting clusters is refused for, and what each side is told."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest
import yaml

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.connect import check_access, check_all, peer_config, plan_links
from clustermesh_cli.plan.connection_mode import Mode
from clustermesh_cli.plan.facts import ClusterFacts, KnownPeer, StoreAccess
from clustermesh_cli.plan.peering import (
    PEERS_ANNOTATION,
    admit_users,
    expel_users,
    forget_peer,
    known_peers,
    learn_peer,
    read_peers,
    real_files,
)
from meshmodel.names import ClusterId, ClusterName

NORTH = ClusterFacts(
    context="kind-north",
    name=ClusterName("north"),
    id=ClusterId(1),
    maximum=255,
    ca_pem=b"CA of north",
    access=StoreAccess("NodePort", ("192.0.2.1", "192.0.2.2"), 32379),
    pod_cidrs=("10.1.0.0/24", "10.1.1.0/24"),
)
SOUTH = replace(
    NORTH, context="kind-south", name=ClusterName("south"), id=ClusterId(2), ca_pem=b"CA of south",
    access=StoreAccess("NodePort", ("192.0.2.9",), 32379), pod_cidrs=("10.2.0.0/24",),
)  # fmt: skip
EAST = replace(SOUTH, context="kind-east", name=ClusterName("east"), id=ClusterId(3), pod_cidrs=("10.3.0.0/24",))


def test_two_proper_clusters_are_accepted() -> None:
    check_all([NORTH, SOUTH, EAST])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(SOUTH, name=ClusterName("north")), "both named north"),
        (replace(SOUTH, id=ClusterId(1)), "both have the id 1"),
        (replace(SOUTH, maximum=511), "255 connected clusters and south for 511"),
        (
            replace(SOUTH, pod_cidrs=("10.1.1.128/25",)),
            "pod networks overlap: 10.1.1.0/24 of north and 10.1.1.128/25 of south",
        ),
        (
            replace(SOUTH, peers={"west": KnownPeer(1)}),
            "south already has a peer west with id 1, the id of north",
        ),
    ],
    ids=["name", "id", "maximum", "pod-cidr", "id-of-a-third-cluster"],
)
def test_clusters_that_cannot_share_a_mesh_are_refused_with_the_reason(other: ClusterFacts, words: str) -> None:
    with pytest.raises(CommandRefusedError, match=words):
        check_all([NORTH, other])


def test_connecting_again_is_not_a_conflict_with_oneself() -> None:
    check_all([replace(NORTH, peers={"south": KnownPeer(2)}), replace(SOUTH, peers={"north": KnownPeer(1)})])


def test_a_cluster_without_an_address_is_refused() -> None:
    with pytest.raises(CommandRefusedError, match="north: Service clustermesh-apiserver has no address yet"):
        check_access(replace(NORTH, access=None))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (Mode.UNICAST, {("north", "south"), ("north", "east")}),
        (Mode.BIDIRECTIONAL, {("north", "south"), ("south", "north"), ("north", "east"), ("east", "north")}),
        (
            Mode.MESH,
            {
                ("north", "south"),
                ("south", "north"),
                ("north", "east"),
                ("east", "north"),
                ("south", "east"),
                ("east", "south"),
            },
        ),
    ],
)
def test_each_mode_links_who_it_says(mode: Mode, expected: set[tuple[str, str]]) -> None:
    links = plan_links(NORTH, [SOUTH, EAST], mode)
    assert {(str(link.reader.name), str(link.target.name)) for link in links} == expected
    assert len(links) == len(expected)


def test_the_peer_file_names_every_address_and_no_key_of_the_peer() -> None:
    document = yaml.safe_load(peer_config(NORTH))
    assert document["endpoints"] == ["https://north.mesh.cilium.io:32379"]
    assert document["cilium-host-aliases"] == [{"hostname": "north.mesh.cilium.io", "ips": ["192.0.2.1", "192.0.2.2"]}]
    assert document["key-file"] == "/var/lib/clustermesh/remote/tls.key"


def test_learning_and_forgetting_a_peer_leave_the_others() -> None:
    known = {"east": KnownPeer(3, ("10.3.0.0/24",))}
    learned = learn_peer(known, SOUTH, real_files(SOUTH))
    assert set(learned["data"]) == {"south", "south.etcd-client-ca.crt"}
    assert base64.b64decode(learned["data"]["south.etcd-client-ca.crt"]) == b"CA of south"
    assert learned["metadata"]["annotations"][PEERS_ANNOTATION] == (
        '{"east":{"id":3,"podCIDRs":["10.3.0.0/24"]},"south":{"id":2,"podCIDRs":["10.2.0.0/24"]}}'
    )
    forgotten = forget_peer({**known, "south": KnownPeer(2)}, "south")
    assert forgotten["data"] == {"south": None, "south.etcd-client-ca.crt": None}
    assert "south" not in forgotten["metadata"]["annotations"][PEERS_ANNOTATION]


def test_users_are_admitted_once_and_expelled_alone() -> None:
    one = admit_users("", "south")
    assert yaml.safe_load(one) == {"users": [{"name": "remote-south", "role": "remote"}]}
    assert admit_users(one, "south") == one
    two = admit_users(one, "east")
    assert yaml.safe_load(expel_users(two, "south")) == {"users": [{"name": "remote-east", "role": "remote"}]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("users: [", "line 2"),
        ("users: remote-south", "there is no list under users"),
        ("[remote-south]", "there is no list under users"),
        ("users: [remote-south]", "remote-south has no name"),
        ("users: [{role: remote}]", "{'role': 'remote'} has no name"),
    ],
)
def test_users_that_cannot_be_read_are_named_and_left_alone(text: str, why: str) -> None:
    users = {"data": {"users.yaml": text}}
    for decide in (
        lambda: known_peers((), None, users),
        lambda: expel_users(text, "east"),
        lambda: admit_users(text, "east"),
    ):
        with pytest.raises(CommandRefusedError, match=re.escape(why)) as refused:
            decide()
        assert "ConfigMap clustermesh-remote-users: users.yaml" in str(refused.value)


def test_a_new_authority_changes_no_note_of_peers() -> None:
    """It stands in the files and bundles, where `certs rotate --ca` replaces it; an earlier release noted it here too."""
    noted = {"metadata": {"annotations": {PEERS_ANNOTATION: '{"south":{"ca":"bb","id":2,"podCIDRs":["10.2.0.0/24"]}}'}}}
    known = read_peers(noted)
    assert known == {"south": KnownPeer(2, ("10.2.0.0/24",))}
    before, after = (learn_peer(known, replace(SOUTH, ca_pem=pem), {}) for pem in (b"old", b"new"))
    assert before == after

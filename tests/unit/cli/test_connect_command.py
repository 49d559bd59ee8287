# SPDX-License-Identifier: Apache-2.0
"""connect and disconnect over working links: what is refused writes nothing, what fails is taken back."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from connect_world import NS, WALL_S, World
from explain_world import listing
from full_disk import on_a_full_disk

from clustermesh_cli.commands.disconnect import disconnect_contexts, disconnect_peer
from clustermesh_cli.commands.enable import EnableOptions, enable
from clustermesh_cli.contexts import open_clusters, split_contexts
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.plan.authority_choice import check_authority
from clustermesh_cli.plan.exposure import ExposureWish
from clustermesh_cli.plan.peer_networks import decide_networks, parse_choices
from clustermesh_cli.plan.pod_ranges import calico_ranges, cilium_ranges, flag_ranges, kubeadm_ranges
from meshapi.apiserver import Reach
from meshpeer.allowed import Allowed, parse_allowed

CA = f"{NS}/secrets/clustermesh-ca"


@pytest.fixture
def world() -> World:
    return World()


def refused(world: World, *endpoints: str, **options: bool) -> CommandError:
    before = world.state()
    with pytest.raises(CommandError) as caught:
        world.connect(*endpoints, **options)
    assert world.state() == before
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("192.0.2.9:0", "port 0 is not in 1..65535"),
        ("192.0.2.9:65536", "port 65536 is not in 1..65535"),
        ("192.0.2.9:99999", "port 99999 is not in 1..65535"),
        ("192.0.2.9", "not HOST:PORT"),
        (":32379", "not HOST:PORT"),
        ("[]:32379", "not HOST:PORT"),
        ("192.0.2.9:٣", "not HOST:PORT"),
    ],
)
def test_an_endpoint_that_cannot_be_one_is_refused_before_anything_is_read_or_written(
    world: World, endpoint: str, words: str, dry_run: bool
) -> None:
    exc = refused(world, endpoint, dry_run=dry_run)
    assert exc.code == ExitCode.REFUSED
    assert words in str(exc)
    assert world.writes() == []


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("problem", ["name-unknown", "refused", "unreachable", "unknown-ca", "not-tls", "expired"])
def test_an_endpoint_that_does_not_answer_as_the_target_leaves_the_working_link(
    world: World, problem: str, dry_run: bool
) -> None:
    world.connect()
    working = world.writes()
    world.north.reached["192.0.2.9"] = Reach(problem=problem, detail="seen", advice="do this")
    exc = refused(world, "192.0.2.9:32379", dry_run=dry_run)
    assert exc.code == ExitCode.CHECK_FAILED
    assert "north cannot use south at 192.0.2.9 port 32379: seen (do this); nothing was changed" in str(exc)
    assert world.writes() == working


def test_every_given_endpoint_must_work_but_only_one_of_a_service(world: World) -> None:
    world.north.reached["192.0.2.8"] = Reach(problem="refused")
    assert refused(world, "192.0.2.9:32379", "192.0.2.8:32379").code == ExitCode.CHECK_FAILED
    node = {
        "metadata": {"name": "second"},
        "spec": {},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.8"}],
        },
    }
    nodes: dict[str, list[object]] = world.south.answers["/api/v1/nodes"]  # type: ignore[assignment]
    nodes["items"].append(node)
    world.connect()
    assert "WARN north cannot use south at 192.0.2.8 port 32379: refused" in world.stream.getvalue()
    world.north.reached["192.0.2.8"] = Reach(problem="unknown-ca")
    assert refused(world).code == ExitCode.CHECK_FAILED, "who answers as somebody else is no node of the target"


def test_without_verification_nothing_is_tried(world: World) -> None:
    world.north.reached["192.0.2.9"] = Reach(problem="refused")
    world.north.has_sessions = False
    world.connect("192.0.2.9:32379", is_verified=False)
    assert len(world.writes()) == 8


@pytest.mark.parametrize("broken", range(1, 9))
def test_a_write_that_fails_takes_back_those_before_it(world: World, broken: int) -> None:
    world.connect()
    api, number = (world.north, broken) if broken <= 4 else (world.south, broken - 4)
    world.north.reached["192.0.2.9"] = Reach(problem="none")
    disconnect_contexts(world.clients(), "kube-system", world.console)
    api.broken = {len(api.writes) + number}
    exc = refused(world, "192.0.2.9:32379")
    assert "no leader" in str(exc)
    assert "what was there before is restored" in str(exc)
    world.connect("192.0.2.9:32379")


def test_a_link_without_a_session_is_taken_back_and_the_one_before_it_stays(world: World) -> None:
    world.connect()
    world.north.has_sessions = False
    exc = refused(world, "192.0.2.9:32379")
    assert exc.code == ExitCode.TIMEOUT
    assert "north has no session with south after 3 s: north-node does not know south yet" in str(exc)
    assert "what was there before is restored" in str(exc)


def test_what_could_not_be_restored_is_named(world: World) -> None:
    world.north.has_sessions = False
    world.south.broken = {5, 6, 7, 8}
    with pytest.raises(CommandError, match=r"NOT restored: .*clustermesh-ca-bundle of kind-south"):
        world.connect()


def test_connecting_again_writes_nothing(world: World) -> None:
    world.connect()
    before = len(world.writes())
    world.connect()
    assert len(world.writes()) == before


# -- disconnect


@pytest.mark.parametrize("peer", ["north", "west"])
def test_who_is_no_peer_cannot_be_disconnected_from(world: World, peer: str) -> None:
    world.connect()
    before = world.state()
    words = "north is this cluster itself" if peer == "north" else "west is not a peer of north: .* its peers: south$"
    with pytest.raises(CommandError, match=words) as caught:
        disconnect_peer(world.north.client("kind-north"), "kube-system", "kind-north", peer, world.console)
    assert caught.value.code == ExitCode.REFUSED
    assert world.state() == before


def test_disconnecting_twice_is_refused_and_one_side_that_forgot_before_is_no_fault(world: World) -> None:
    world.connect()
    client = world.north.client("kind-north")
    disconnect_peer(client, "kube-system", "kind-north", "south", world.console)
    with pytest.raises(CommandError, match="south is not a peer of north: nothing was changed; its peers: none"):
        disconnect_peer(client, "kube-system", "kind-north", "south", world.console)
    disconnect_contexts(world.clients(), "kube-system", world.console)
    assert "INFO south was not a peer of north" in world.stream.getvalue()
    with pytest.raises(CommandError, match="north and south are not connected: neither is a peer of the other"):
        disconnect_contexts(world.clients(), "kube-system", world.console)
    for api in (world.north, world.south):
        assert list(api.answers["/api/v1/namespaces/kube-system/configmaps/clustermesh-ca-bundle"]["data"]) == [  # type: ignore[index]
            f"{api.name}.crt"
        ]


def test_two_contexts_of_one_cluster_are_itself_too(world: World) -> None:
    clients = {"kind-north": world.north.client("kind-north"), "admin@north": world.north.client("admin@north")}
    with pytest.raises(CommandError, match="north is this cluster itself") as caught:
        disconnect_contexts(clients, "kube-system", world.console)
    assert caught.value.code == ExitCode.REFUSED


@pytest.mark.parametrize("verb", ["connect", "disconnect contexts", "disconnect peer"])
def test_nothing_is_changed_where_nothing_can_be_said(world: World, verb: str) -> None:
    if verb != "connect":
        world.connect()
    before = world.state()
    with on_a_full_disk() as console:
        world.console = console
        match verb:
            case "connect":
                world.connect()
            case "disconnect contexts":
                disconnect_contexts(world.clients(), "kube-system", console)
            case _:
                disconnect_peer(world.north.client("kind-north"), "kube-system", "kind-north", "south", console)
    assert world.state() == before


# -- contexts


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    path = tmp_path / "kubeconfig"
    names = ("kind-north", "kind-south")
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "kind-north",
        "clusters": [{"name": n, "cluster": {"server": "https://127.0.0.1:1"}} for n in names],
        "users": [{"name": n, "user": {}} for n in names],
        "contexts": [{"name": n, "context": {"cluster": n, "user": n}} for n in names],
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.mark.parametrize(
    ("context", "destinations", "code", "words"),
    [
        (None, ["kind-north"], ExitCode.REFUSED, "kind-north, the current context, cannot be connected to itself"),
        ("kind-south", ["kind-south"], ExitCode.REFUSED, "kind-south cannot be connected to itself"),
        ("", ["kind-south"], ExitCode.USAGE, "--context is empty"),
        (" ", ["kind-south"], ExitCode.USAGE, "--context is empty"),
        (None, [""], ExitCode.USAGE, "--destination-context is empty"),
        (None, ["kind-south,"], ExitCode.USAGE, "--destination-context is empty"),
        (None, ["nope"], ExitCode.USAGE, "no context nope: there are kind-north, kind-south"),
        ("nope", ["kind-south"], ExitCode.USAGE, "no context nope"),
    ],
)
def test_contexts_are_refused_by_name(
    kubeconfig: str, context: str | None, destinations: list[str], code: ExitCode, words: str
) -> None:
    with pytest.raises(CommandError, match=words) as caught:
        open_clusters(kubeconfig, context, split_contexts(destinations), "connected to")
    assert caught.value.code == code


def test_each_context_is_opened_once(kubeconfig: str) -> None:
    found = open_clusters(kubeconfig, None, split_contexts(["kind-south", "kind-south"]), "connected to")
    assert list(found) == ["kind-north", "kind-south"]


# -- what a peer may own


def entry(world: World, secret: str = "cilium-clustermesh") -> Allowed:
    data: Any = world.north.answers[f"{NS}/secrets/{secret}"]
    return parse_allowed(base64.b64decode(data["data"]["south"]))


def test_what_a_peer_may_own_is_said_and_written_and_stays_until_it_is_chosen_anew(world: World) -> None:
    world.connect()
    assert "INFO north lets south own 10.2.0.0/16 and its nodes' addresses" in world.stream.getvalue()
    assert entry(world).networks == entry(world, "cilium-kvstoremesh").networks == ("10.2.0.0/16",)
    world.connect()
    assert "own 10.2.0.0/16 and its nodes' addresses, as before" in world.stream.getvalue()
    assert entry(world).networks == ("10.2.0.0/16",)
    world.connect(networks={"kind-south": ("10.2.0.0/15", "fd00::/48")})
    assert entry(world).networks == ("10.2.0.0/15", "fd00::/48")
    world.connect()
    assert entry(world).networks == ("10.2.0.0/15", "fd00::/48")
    world.connect(networks={"kind-south": "auto"})
    assert entry(world).networks == ("10.2.0.0/16",)
    world.connect(networks={"kind-south": "none"})
    assert entry(world).networks == ()


def test_a_list_that_does_not_hold_what_the_peer_announces_is_kept_and_named(world: World) -> None:
    world.connect(networks={"kind-south": ("172.30.0.0/16",)})
    world.connect()
    assert entry(world).networks == ("172.30.0.0/16",)
    said = world.stream.getvalue()
    assert "south announces 10.2.0.0/24, which north refuses: --peer-networks kind-south=auto lets it own that" in said


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (
            f"{NS}/configmaps/kubeadm-config",
            {"data": {"ClusterConfiguration": "networking:\n  podSubnet: 10.0.0.0/14, fd00:2::/40\n"}},
        ),
        (
            f"{NS}/configmaps/cilium-config",
            {"data": {"cluster-pool-ipv4-cidr": "10.0.0.0/14", "cluster-pool-ipv6-cidr": "fd00:2::/40"}},
        ),
        (
            "/apis/crd.projectcalico.org/v1/ippools",
            listing(
                {"spec": {"cidr": "10.0.0.0/14"}},
                {"spec": {"cidr": "fd00:2::/40"}},
                {"spec": {"cidr": "9.0.0.0/8", "disabled": True}},
            ),
        ),
        (
            "/apis/apps/v1/namespaces/kube-system/deployments/clustermesh-apiserver",
            {
                "spec": {
                    "template": {
                        "spec": {"containers": [{"args": ["--pod-cidr=10.0.0.0/14", "--pod-cidr", "fd00:2::/40"]}]}
                    }
                }
            },
        ),
    ],
    ids=["kubeadm", "cilium", "calico", "flag"],
)
def test_networks_of_all_pods_are_taken_where_objects_of_the_cluster_tell_them(
    world: World, path: str, answer: object
) -> None:
    world.north.answers["/api/v1/nodes"]["items"][0]["spec"]["podCIDRs"] = ["10.9.0.0/24"]  # type: ignore[index]
    world.south.answers[path] = answer
    world.connect()
    assert entry(world).networks == ("10.0.0.0/14", "fd00:2::/40")


def test_what_tells_nothing_about_all_pods_is_passed_over() -> None:
    assert cilium_ranges({"data": {"ipam": "kubernetes", "cluster-pool-ipv4-cidr": "10.0.0.0/8"}}) == ()
    assert cilium_ranges({"data": {"cluster-pool-ipv4-cidr": "10.244.0.0/16 10.245.0.0/16"}}) == (
        "10.244.0.0/16",
        "10.245.0.0/16",
    )
    assert cilium_ranges({"data": {"cluster-pool-ipv4-cidr": "0.0.0.0/0", "cluster-pool-ipv6-cidr": "fd00::/8"}}) == ()
    bounds = {"cluster-pool-ipv4-cidr": "10.0.0.0/8 12.0.0.0/7", "cluster-pool-ipv6-cidr": "fd00::/16 fc00::/15"}
    assert cilium_ranges({"data": bounds}) == ("10.0.0.0/8", "fd00::/16")  # what agents believe of a peer at most
    for text in ("", "- a list", "networking: [", "networking: 7", "networking:\n  podSubnet: not-a-prefix"):
        assert kubeadm_ranges({"data": {"ClusterConfiguration": text}}) == ()
    assert kubeadm_ranges(None) == cilium_ranges(None) == flag_ranges(None) == calico_ranges([]) == ()


def test_auto_leaves_room_for_nodes_but_not_in_the_networks_of_others() -> None:
    assert decide_networks("auto", ["10.2.0.0/24", "10.2.1.0/24", "fd00:2::/64"], ["10.1.0.0/16"]) == (
        "10.2.0.0/16",
        "fd00:2::/48",
    )
    assert decide_networks("auto", ["10.1.128.0/24", "10.0.0.0/12"], ["10.1.0.0/24"]) == ("10.0.0.0/12",)
    assert decide_networks("auto", ["10.1.128.0/24"], ["10.1.0.0/24"]) == ("10.1.128.0/24",)
    assert decide_networks("auto", ["10.2.0.0/24"], ["10.1.0.0/24"], ["10.0.0.0/8"]) == ("10.2.0.0/16",)
    assert decide_networks("auto", ["10.2.0.0/24", "192.168.7.3/32"], [], ["10.0.0.0/12"]) == (
        "10.0.0.0/12",
        "192.168.0.0/16",
    )
    with pytest.raises(CommandError, match="announces no pod networks"):
        decide_networks("auto", [], [])


def test_choices_are_for_the_peers_they_name() -> None:
    assert parse_choices(["auto"], "a", ["b", "c"]) == {"a": "auto", "b": "auto", "c": "auto"}
    assert parse_choices(["10.2.0.0/16"], "a", ["b"]) == {"b": ("10.2.0.0/16",)}
    assert parse_choices(["auto", "c=10.2.0.0/16, fd00::/48", "a=none"], "a", ["b", "c"]) == {
        "a": "none",
        "b": "auto",
        "c": ("10.2.0.0/16", "fd00::/48"),
    }


@pytest.mark.parametrize(
    ("given", "code"),
    [("10.2.0.0/33", ExitCode.USAGE), ("Auto", ExitCode.USAGE), ("", ExitCode.USAGE), ("d=auto", ExitCode.REFUSED)],
)
def test_choices_that_are_none_are_refused(given: str, code: ExitCode) -> None:
    with pytest.raises(CommandError, match="--peer-networks") as caught:
        parse_choices([given], "a", ["b"])
    assert caught.value.code == code
    with pytest.raises(CommandError, match="write CONTEXT="):
        parse_choices(["10.2.0.0/16"], "a", ["b", "c"])


# -- a lost authority


def enable_north(world: World, *, new_ca: bool) -> None:
    options = EnableOptions("kube-system", None, None, ExposureWish(), (), "apiserver", "agent", new_ca=new_ca)
    enable(world.north.client("kind-north"), "kind-north", options, world.console, WALL_S)


def test_a_lost_authority_that_peers_trust_is_not_replaced_without_a_word(world: World) -> None:
    world.connect()
    del world.north.answers[CA]
    before, written = world.state(), len(world.writes())
    with pytest.raises(CommandError, match="clustermesh-ca is lost, and south trust the authority") as caught:
        enable_north(world, new_ca=False)
    assert caught.value.code == ExitCode.REFUSED
    assert (world.state(), len(world.writes())) == (before, written)
    assert CA not in world.north.answers
    with pytest.raises(CommandError, match="kind-north: Secret clustermesh-ca is lost: put the Secret back"):
        world.connect()


@pytest.mark.parametrize(
    ("is_kept", "may_be_new", "peers"), [(True, False, ["south"]), (False, False, []), (False, True, ["south"])]
)
def test_an_authority_is_kept_or_made_where_that_cuts_nobody_unasked(
    is_kept: bool, may_be_new: bool, peers: list[str]
) -> None:
    check_authority(is_kept=is_kept, may_be_new=may_be_new, peers=peers)

# SPDX-License-Identifier: Apache-2.0
"""`enable` in a cluster that has lost part of what it knew of itself: nobody is renumbered, and no half is applied."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from connect_world import NS, WALL_S, World

from certs.authority import Authority
from certs.store import encode_data
from clustermesh_cli.commands.certs import rotate
from clustermesh_cli.commands.disconnect import disconnect_contexts, disconnect_peer
from clustermesh_cli.commands.enable import EnableOptions, enable, show
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.plan.exposure import ExposureWish

CA = f"{NS}/secrets/clustermesh-ca"
CONFIG = f"{NS}/configmaps/clustermesh-config"
DEPLOYMENT = "/apis/apps/v1/namespaces/kube-system/deployments/clustermesh-apiserver"
DAEMON_SET = "/apis/apps/v1/namespaces/kube-system/daemonsets/clustermesh-agent"
OPTIONS = EnableOptions("kube-system", None, None, ExposureWish(), (), "apiserver", "agent")


def workload(*arguments: str) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"containers": [{"name": "program", "args": list(arguments)}]}}}}


@pytest.fixture
def world() -> World:
    world = World()
    world.north.answers[DEPLOYMENT] = workload(
        "--cluster-name=north", "--cluster-id=1", "--max-connected-clusters=511", "--no-mirror"
    )
    world.north.answers[DAEMON_SET] = workload("--cluster-id=1", "--policy-default-local-cluster=false")
    authority = Authority.create("clustermesh north", WALL_S)
    world.north.answers[CA] = {"data": encode_data({"ca.crt": authority.certificate_pem, "ca.key": authority.key_pem})}
    return world


def planned(world: World, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The data of the ConfigMap that `enable` would write."""
    show(world.north.client("kind-blue"), "kind-blue", OPTIONS)
    objects = yaml.safe_load_all(capsys.readouterr().out)
    found: dict[str, str] = next(o["data"] for o in objects if o["metadata"]["name"] == "clustermesh-config")
    return found


@pytest.mark.parametrize(
    "left",
    [
        {},
        {"cluster-name": "north"},
        {"cluster-name": "north", "cluster-id": "x", "max-connected-clusters": "many"},
        {"cluster-name": "default", "cluster-id": "0"},
    ],
)
def test_a_cluster_that_runs_keeps_its_name_its_id_and_its_choices(
    world: World, capsys: pytest.CaptureFixture[str], left: dict[str, str]
) -> None:
    world.north.answers[CONFIG] = {"data": left}
    kept = planned(world, capsys)
    assert (kept["cluster-name"], kept["cluster-id"], kept["max-connected-clusters"]) == ("north", "1", "511")
    assert (kept["enable-kvstoremesh"], kept["policy-default-local-cluster"]) == ("false", "false")
    del world.north.answers[CONFIG]
    assert planned(world, capsys)["cluster-id"] == "1"


def test_what_was_set_is_taken_from_what_runs_where_the_config_map_is_lost(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.north.answers[DEPLOYMENT] = workload(
        "--cluster-name=north",
        "--cluster-id=1",
        "--certificate-lifetime=7200",
        "--renew-certificates",
        "--no-default-global-namespace",
    )
    world.north.answers[DAEMON_SET] = workload("--cluster-id=1", "--policy-entries=9000", "--port=9879")
    before = world.north.answers.pop(CONFIG)
    kept = planned(world, capsys)
    assert kept["certificate-lifetime-s"] == "7200"
    assert (kept["apiserver.default-global-namespace"], kept["agent.policy-entries"]) == ("false", "9000")
    assert not {"agent.port", "apiserver.renew-certificates"} & set(kept)
    world.north.answers[CONFIG] = before
    assert "agent.policy-entries" not in planned(world, capsys), "a flag by hand is no choice of enable's"


def test_a_config_map_that_contradicts_what_runs_is_refused_before_anything_is_written(world: World) -> None:
    world.north.answers[CONFIG] = {"data": {"cluster-name": "north", "cluster-id": "9"}}
    with pytest.raises(CommandError, match="cluster-id 9, and the programs of the cluster run with 1") as caught:
        enable(world.north.client("kind-north"), "kind-north", OPTIONS, world.console, WALL_S)
    assert caught.value.code == ExitCode.REFUSED
    assert world.writes() == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({}, r"has no entry ca\.crt"),
        ({"ca.crt": "eA=="}, r"has no entry ca\.key"),
        ({"ca.crt": "eA==", "ca.key": "eA=="}, "not a PEM certificate"),
    ],
)
@pytest.mark.parametrize("new_ca", [False, True])
def test_a_secret_without_a_usable_authority_is_refused_before_anything_is_written(
    world: World, data: dict[str, str], why: str, new_ca: bool
) -> None:
    world.north.answers[CA] = {"data": data}
    options = EnableOptions("kube-system", None, None, ExposureWish(), (), "apiserver", "agent", new_ca=new_ca)
    world.north.answers[CONFIG] = {
        "data": {"cluster-name": "north", "cluster-id": "1", "max-connected-clusters": "511"}
    }
    with pytest.raises(CommandError, match=f"{why}.*delete it if it is there.*enable --new-ca") as caught:
        enable(world.north.client("kind-north"), "kind-north", options, world.console, WALL_S)
    assert caught.value.code == ExitCode.REFUSED
    assert world.writes() == []
    with pytest.raises(CommandError, match=f"{why}.*enable --new-ca"):
        rotate(world.north.client("kind-north"), "kube-system", world.console, WALL_S)


def test_an_authority_that_is_there_is_not_replaced(world: World) -> None:
    del world.north.answers[DEPLOYMENT], world.north.answers[DAEMON_SET]
    options = EnableOptions("kube-system", None, None, ExposureWish(), (), "apiserver", "agent", new_ca=True)
    with pytest.raises(CommandError, match="--new-ca replaces a lost one only"):
        enable(world.north.client("kind-north"), "kind-north", options, world.console, WALL_S)


@pytest.mark.parametrize(
    ("place", "data", "words"),
    [
        (CONFIG, {"cluster-name": "north"}, "kind-north: ConfigMap clustermesh-config: cluster-id is '' and no number"),
        (CONFIG, {"cluster-name": "north", "cluster-id": "x"}, "cluster-id is 'x' and no number"),
        (
            CONFIG,
            {"cluster-name": "north", "cluster-id": "1", "max-connected-clusters": "²"},
            "max-connected-clusters is '²'",
        ),
        (CA, {"ca.crt": "eA=="}, r"kind-north: Secret clustermesh-ca holds no authority .*not a PEM certificate"),
    ],
)
def test_connect_and_check_name_the_object_that_cannot_be_read(
    world: World, place: str, data: dict[str, str], words: str
) -> None:
    world.north.answers[place] = {"data": data}
    with pytest.raises(CommandError, match=words):
        world.connect()
    assert world.writes() == []


@pytest.mark.parametrize("lifetime", ["nan", "inf", "soon"])
def test_a_lifetime_that_is_no_number_is_named(world: World, lifetime: str) -> None:
    world.north.answers[CONFIG] = {
        "data": {"cluster-name": "north", "cluster-id": "1", "certificate-lifetime-s": lifetime}
    }
    with pytest.raises(CommandError, match="certificate-lifetime-s is no number of seconds"):
        rotate(world.north.client("kind-north"), "kube-system", world.console, WALL_S)


def test_disconnect_in_a_cluster_without_a_name_says_what_gives_it_back(world: World) -> None:
    world.north.answers[CONFIG] = {"data": {}}
    with pytest.raises(CommandError, match="clustermesh enable puts it back"):
        disconnect_peer(world.north.client("kind-north"), "kube-system", "kind-north", "south", world.console)


@pytest.mark.parametrize("code", [401, 403, 500])
def test_of_several_clusters_the_one_that_refuses_is_named(world: World, code: int) -> None:
    world.south.refuse[CONFIG] = code
    with pytest.raises(CommandError, match=f"^kind-south: GET .*clustermesh-config: {code}"):
        world.connect()
    with pytest.raises(CommandError, match=f"^kind-south: GET .*clustermesh-config: {code}"):
        disconnect_contexts(world.clients(), "kube-system", world.console)
    assert world.writes() == []

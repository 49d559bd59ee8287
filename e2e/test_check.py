# SPDX-License-Identifier: Apache-2.0
"""`check` of a working mesh, of a peer that cannot be reached, and of two nodes between which no tunnel passes."""

from __future__ import annotations

import json
from typing import Any, Final

from e2e.command import CHECK_FAILED, CONNECTION, DEGRADED, versions
from e2e.faults import tunnels_dropped
from e2e.mesh import CLUSTERS, Mesh

SOURCE: Final = "koornacht-worker"
TARGET: Final = "tion-worker2"
MATRIX: Final = ("check", "--matrix", *CONNECTION)


def ways(mesh: Mesh) -> tuple[int, Any]:
    done = mesh.clustermesh(*MATRIX, "-o", "json", check=False)
    return done.returncode, json.loads(done.stdout)


def broken(document: Any) -> set[tuple[str, str, str]]:
    return {(way["source"], way["target"], way["path"]) for way in document["paths"] if way["path"] != "whole"}


def test_every_check_of_a_working_mesh_is_well_and_changes_nothing(whole: Mesh) -> None:
    before = {cluster: versions(whole, cluster) for cluster in CLUSTERS}
    document = json.loads(whole.clustermesh("check", *CONNECTION, "-o", "json").stdout)
    assert document["result"] == "ok", document
    checks = {row["check"] for row in document["rows"]}
    assert {
        "enabled",
        "certificates",
        "clocks",
        "kernels",
        "programs",
        "ids",
        "pod networks",
        "endpoint",
        "session",
    } <= checks
    endpoints = [tuple(row["clusters"]) for row in document["rows"] if row["check"] == "endpoint"]
    assert endpoints == [("koornacht", "tion")] * 3 + [("tion", "koornacht")] * 3
    alone = json.loads(whole.clustermesh("check", "--context", "kind-tion", "-o", "json").stdout)
    assert [row["clusters"] for row in alone["rows"] if row["check"] == "endpoint"] == [["tion", "koornacht"]] * 3
    assert {cluster: versions(whole, cluster) for cluster in CLUSTERS} == before


def test_an_endpoint_where_nothing_listens_fails_with_what_connect_would_say(whole: Mesh) -> None:
    words = (*CONNECTION, "--destination-endpoint", "172.18.0.5:1")
    checked = whole.clustermesh("check", *words, check=False)
    refused = whole.clustermesh("connect", *words, "--dry-run", check=False)
    assert (checked.returncode, refused.returncode) == (CHECK_FAILED, CHECK_FAILED)
    detail = "koornacht cannot use tion at 172.18.0.5 port 1: connection refused"
    assert detail in checked.stdout
    assert detail in refused.stderr


def test_the_matrix_names_the_two_nodes_between_which_no_tunnel_passes(whole: Mesh) -> None:
    code, document = ways(whole)
    assert (code, broken(document)) == (0, set()), document
    assert [(pair["paths"], pair["whole"], pair["sessions"]) for pair in document["pairs"]] == [(9, 9, 3)] * 2
    assert all(0 < way["rtt"] < 1 and way["way"] == "overlay" for way in document["paths"])
    both = {(SOURCE, TARGET, "no-answer"), (TARGET, SOURCE, "no-answer")}
    with tunnels_dropped(whole, SOURCE, TARGET):
        whole.wait_until("the matrix shows the pair and no other", lambda: broken(ways(whole)[1]) == both)
        shown = whole.clustermesh(*MATRIX, check=False)
        assert shown.returncode == DEGRADED
        assert f"FAIL koornacht/{SOURCE} -> tion/{TARGET}: no answer, last answer" in shown.stdout
        assert "FAIL koornacht -> tion: 8/9 ways whole" in shown.stdout
    whole.wait_until("every way is whole again", lambda: ways(whole)[0] == 0)

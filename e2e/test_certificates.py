# SPDX-License-Identifier: Apache-2.0
"""Certificates that live for seconds are renewed under load: no request fails, no session ends, no stream is late.

`CLUSTERMESH_ROTATION_S` and `CLUSTERMESH_LIFETIME_S` choose how long: 600 and 60 are the full trial.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import pytest

from certs import profile
from e2e.bad_certificates import Fault, bad_certificate
from e2e.command import CHECK_FAILED, DEGRADED, REFUSED, assert_one_line
from e2e.mesh import CLUSTERS, SYSTEM, Cluster, Mesh
from e2e.pulse import Pulse
from e2e.traffic import undisturbed

ROTATION_S: Final = float(os.environ.get("CLUSTERMESH_ROTATION_S", "45"))
LIFETIME_S: Final = float(os.environ.get("CLUSTERMESH_LIFETIME_S", "20"))
GAP_S: Final = 1.0
CERTIFICATES: Final = ("server", "admin", "local", "remote")
YEAR: Final = "8760h"


def set_lifetime(mesh: Mesh, lifetime: str) -> None:
    for cluster in CLUSTERS:
        words = ("--context", f"kind-{cluster}", "--service-type", "NodePort", "--certificate-lifetime", lifetime)
        mesh.clustermesh("enable", *words)
    for cluster in CLUSTERS:
        mesh.kubectl(cluster, "rollout", "status", "deployment/clustermesh-apiserver", "-n", SYSTEM, "--timeout=60s")
        mesh.clustermesh("status", "--context", f"kind-{cluster}", "--wait", "--wait-duration", "60s")


@pytest.fixture
def short_lived(whole: Mesh) -> Iterator[Mesh]:
    """Certificates of both clusters live for seconds."""
    try:
        set_lifetime(whole, f"{LIFETIME_S:g}s")
        yield whole
    finally:
        set_lifetime(whole, YEAR)


def serials(mesh: Mesh, cluster: Cluster) -> Mapping[str, str]:
    names = {kind: f"clustermesh-apiserver-{kind}-cert" for kind in CERTIFICATES}
    return {kind: mesh.get(cluster, "secret", "-n", SYSTEM, name)["data"]["tls.crt"] for kind, name in names.items()}


def sessions(mesh: Mesh) -> Mapping[str, tuple[float, int]]:
    """Since when every session of every program stands, and how often it failed before."""
    found: dict[str, tuple[float, int]] = {}
    for cluster in CLUSTERS:
        rows: dict[str, list[Any]] = {"mirror": mesh.apiserver_rest(cluster, "/v1/clusters")}
        for node in mesh.get(cluster, "nodes")["items"]:
            name = node["metadata"]["name"]
            rows[name] = mesh.agent_rest(cluster, name, "/v1/clusters")
        for who, peers in rows.items():
            for row in peers:
                found[f"{cluster} {who} {row['name']}"] = (row["session-since"], row["num-failures"])
    return found


def failures(mesh: Mesh) -> Mapping[str, int]:
    """How often every session of every program ended."""
    return {who: failed for who, (_, failed) in sessions(mesh).items()}


@pytest.mark.timeout(ROTATION_S + 400)
def test_short_lived_certificates_rotate_under_load(short_lived: Mesh) -> None:
    mesh, pulse = short_lived, Pulse(short_lived)
    seen = {cluster: {kind: {pem} for kind, pem in serials(mesh, cluster).items()} for cluster in CLUSTERS}
    with undisturbed(mesh):
        before = sessions(mesh)
        end = time.monotonic() + ROTATION_S
        while time.monotonic() < end:
            pulse.beat()
            for cluster in CLUSTERS:
                for kind, pem in serials(mesh, cluster).items():
                    seen[cluster][kind].add(pem)
        assert sessions(mesh) == before
    counts = {f"{cluster} {kind}": len(pems) for cluster, kinds in seen.items() for kind, pems in kinds.items()}
    figures = {
        "seconds": ROTATION_S,
        "lifetime_s": LIFETIME_S,
        "beats": len(pulse.delays_s),
        "slowest_s": round(max(pulse.delays_s), 3),
        "certificates": counts,
    }
    print(json.dumps(figures))
    assert max(pulse.delays_s) < GAP_S, figures
    assert min(counts.values()) > ROTATION_S / LIFETIME_S, figures
    # connections made now use the renewed certificates: the first ones ended long ago
    mesh.kubectl("tion", "delete", "pod", "-n", SYSTEM, "-l", "k8s-app=clustermesh-apiserver", "--wait=false")
    mesh.wait_until("every session was made anew", lambda: all_made_anew(mesh, "tion", before), 60)


def all_made_anew(mesh: Mesh, restarted: Cluster, before: Mapping[str, tuple[float, int]]) -> bool:
    """Whoever reads the apiserver of the cluster has another session, and all are ready."""
    try:
        now = sessions(mesh)
    except AssertionError:  # an apiserver that is not there answers nothing
        return False
    readers = {who for who in before if who.startswith(f"{restarted} ") or "mirror" in who}
    if any(now.get(who, before[who])[0] <= before[who][0] for who in readers):
        return False
    return all(
        mesh.clustermesh("status", "--context", f"kind-{cluster}", check=False).returncode == 0 for cluster in CLUSTERS
    )


@pytest.mark.runbook("authority-ends")
def test_an_authority_is_replaced_under_load(whole: Mesh) -> None:
    def authority() -> str:
        return str(whole.get("koornacht", "secret", "-n", SYSTEM, "clustermesh-ca")["data"]["ca.crt"])

    before, words = authority(), ("certs", "rotate", "--ca", "--settle", "10s")
    assert_one_line(whole.clustermesh(*words, check=False), REFUSED, "tion must be told", "nothing was changed")
    assert authority() == before
    with undisturbed(whole):
        failed_before = failures(whole)
        to_tion = ("--destination-context", "kind-tion")
        done = whole.clustermesh(*words, *to_tion, "--no-wait")
        assert "Not done yet" in done.stdout
        assert "is being replaced" in whole.clustermesh("status").stdout
        whole.clustermesh(*words, *to_tion)
        assert authority() != before
        for cluster in CLUSTERS:
            whole.clustermesh("status", "--context", f"kind-{cluster}", "--wait", "--wait-duration", "30s")
            shown = json.loads(whole.clustermesh("certs", "show", "--context", f"kind-{cluster}", "-o", "json").stdout)
            assert {row["state"] for row in shown["certificates"]} == {"valid"}
        assert failures(whole) == failed_before, "no session ended: streams go on where they were"
    # who connects now knows the new authority only
    for cluster in CLUSTERS:
        standing = sessions(whole)
        whole.kubectl(cluster, "delete", "pod", "-n", SYSTEM, "-l", "k8s-app=clustermesh-apiserver", "--wait=false")
        whole.wait_until(
            f"every session with {cluster} was made anew", partial(all_made_anew, whole, cluster, standing), 60
        )


def connect_anew(mesh: Mesh, cluster: Cluster) -> None:
    """The cluster's apiserver starts again, and with it every session that it has part in."""
    mesh.kubectl(cluster, "delete", "pod", "-n", SYSTEM, "-l", "k8s-app=clustermesh-apiserver", "--wait=false")


@pytest.mark.runbook("certificate-expired")
def test_a_client_certificate_that_nobody_accepts_is_named_and_costs_no_request(whole: Mesh) -> None:
    """Neither one that expired nor one of another authority; requests, and what the peer reads of us, go on meanwhile."""
    own = profile.remote("koornacht")
    at_the_mirror = {
        Fault.EXPIRED: "our certificate remote-koornacht expired on",
        Fault.FOREIGN: "client-rejected: our certificate is not accepted there",
    }

    def is_named(fault: Fault) -> bool:
        done = whole.clustermesh("status", check=False)
        (peer,) = whole.apiserver_rest("koornacht", "/v1/clusters")
        named = f"certificate that peers know this cluster by {fault}"
        return done.returncode == DEGRADED and named in done.stdout and at_the_mirror[fault] in peer["last-error"]

    with undisturbed(whole):
        with bad_certificate(whole, "koornacht", "clustermesh-apiserver-remote-cert", own) as spoil:
            spoil(Fault.EXPIRED)
            connect_anew(whole, "tion")
            for fault in at_the_mirror:
                spoil(fault)
                whole.wait_until(f"the command and the mirror say {fault!r}", partial(is_named, fault), 60)
            assert whole.clustermesh("certs", "show", check=False).returncode == DEGRADED
            whole.wait_until(
                "the peer is well",
                lambda: not whole.clustermesh("status", "--context", "kind-tion", check=False).returncode,
            )
        whole.clustermesh("status", "--wait", "--wait-duration", "60s")


@pytest.mark.runbook("certificate-expired")
def test_a_server_certificate_that_nobody_accepts_is_named_by_its_cluster_and_by_the_peer(whole: Mesh) -> None:
    own = profile.server("tion", SYSTEM)
    at_the_peer = {
        Fault.EXPIRED: "the server's certificate expired on",
        Fault.FUTURE: "the server's certificate is not valid before",
    }

    def is_named(fault: Fault) -> bool:
        (peer,) = whole.apiserver_rest("koornacht", "/v1/clusters")
        status = whole.clustermesh("status", "--context", "kind-tion", check=False)
        named = f"FAIL server certificate {fault}"
        return status.returncode == DEGRADED and named in status.stdout and at_the_peer[fault] in peer["last-error"]

    with undisturbed(whole):
        with bad_certificate(whole, "tion", "clustermesh-apiserver-server-cert", own) as spoil:
            spoil(Fault.EXPIRED)
            connect_anew(whole, "koornacht")
            for fault in at_the_peer:
                spoil(fault)
                whole.wait_until(f"the cluster and the peer's mirror say {fault!r}", partial(is_named, fault), 60)
            for cluster, words in (
                ("tion", f"server certificate {fault}"),
                ("koornacht", "koornacht cannot use tion at"),
            ):
                done = whole.clustermesh("check", "--context", f"kind-{cluster}", check=False)
                assert (done.returncode, words in done.stdout) == (CHECK_FAILED, True), done.stdout
        for cluster in CLUSTERS:
            whole.clustermesh("status", "--context", f"kind-{cluster}", "--wait", "--wait-duration", "60s")


@pytest.mark.runbook("key-known")
def test_certs_show_and_rotate(whole: Mesh) -> None:
    before = serials(whole, "koornacht")
    shown = json.loads(whole.clustermesh("certs", "show", "-o", "json").stdout)
    kinds = [row["kind"] for row in shown["certificates"]]
    assert {"server certificate", "authority of peer tion", "shown by clustermesh-apiserver"} <= set(kinds)
    assert {row["state"] for row in shown["certificates"]} == {"valid"}
    with undisturbed(whole):
        standing = sessions(whole)
        whole.clustermesh("certs", "rotate")
        after = serials(whole, "koornacht")
        assert all(after[kind] != before[kind] for kind in CERTIFICATES)
        wanted = {
            row["fingerprint"]
            for row in json.loads(whole.clustermesh("certs", "show", "-o", "json").stdout)["certificates"]
            if row["kind"] == "server certificate"
        }

        def is_shown() -> bool:
            rows = whole.apiserver_rest("koornacht", "/v1/certs")
            return {row["fingerprint"] for row in rows if row["role"] == "server"} == wanted

        whole.wait_until("the facade shows the new certificate", is_shown)
        assert sessions(whole) == standing

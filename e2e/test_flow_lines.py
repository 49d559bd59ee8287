# SPDX-License-Identifier: Apache-2.0
"""The commands with which people look at flows, after real traffic: each kind of line that they know of L3 and L4 is there."""

from __future__ import annotations

import re

import pytest

from e2e.mesh import Cluster, Mesh, wait_until
from e2e.policies import OUTSIDE, cilium_policy, in_force

HOST = r"(?:[a-z0-9-]+/[a-z0-9-]+|[0-9.]+)(?::\d+)?"
WHO = rf"{HOST} \((?:ID:\d+|[a-z-]+)\)"
# what is denied, and the only thing that is allowed, of a client in koornacht
DENY_OUT = cilium_policy(
    "e2e-names-only", "x-wing",
    "egress: [{toEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': kube-system, 'k8s:k8s-app': kube-dns}}],"
    " toPorts: [{ports: [{port: '53', protocol: UDP}, {port: '5353', protocol: UDP}]}]}]",
)  # fmt: skip
DENY_IN = cilium_policy("e2e-nobody", "rebel-base", "ingress: [{}]")


def lines(mesh: Mesh, cluster: Cluster, *words: str) -> list[str]:
    """What the command prints, without the time, which has the form it should have."""
    done = mesh.clustermesh("observe", "--context", f"kind-{cluster}", *words)
    found: list[str] = []
    for line in done.stdout.splitlines():
        stamp, _, rest = line.partition(": ")
        assert re.fullmatch(r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d\.\d{3}", stamp), line
        found.append(rest)
    return found


def kinds(found: list[str]) -> set[str]:
    """The lines without who they are about and without which arrow, which must both be well formed."""
    forms = [re.fullmatch(rf"{WHO} (->|<-|<>) {WHO} (.*)", line) for line in found]
    assert all(forms), [line for line, form in zip(found, forms, strict=True) if not form]
    return {f"{form[1]} {form[2]}" for form in forms if form}


def expect(mesh: Mesh, cluster: Cluster, words: list[str], wanted: set[str]) -> set[str]:
    """These kinds are among those of the command's lines, soon."""

    def seen() -> set[str]:
        found = kinds(lines(mesh, cluster, *words))
        missing = wanted - found
        assert not missing, f"missing {sorted(missing)} of {sorted(found)}"
        return found

    return set(wait_until(f"observe {' '.join(words)} in {cluster}", seen, 20))


@pytest.fixture
def client(mesh: Mesh) -> str:
    return mesh.pod("koornacht", "x-wing")[0]


def ask_tion(mesh: Mesh, client: str, target: str = "rebel-base") -> None:
    """Requests of the client, some of which a pod of tion answers."""
    script = f"for i in 1 2 3 4 5 6 7 8 9 10 11 12; do curl -s -o /dev/null --max-time 1 {target}; done; true"
    mesh.kubectl("koornacht", "exec", client, "--", "/bin/sh", "-c", script)


def test_a_request_to_a_service_is_seen_from_its_translation_to_its_close_in_both_clusters(
    mesh: Mesh, client: str
) -> None:
    ask_tion(mesh, client)
    from_pod = ["--from-pod", f"default/{client}", "--last", "400"]
    found = expect(
        mesh, "koornacht", from_pod,
        {
            "<> pre-xlate-fwd TRACED (TCP)",
            "<> post-xlate-fwd TRANSLATED (TCP)",
            "-> to-overlay FORWARDED (TCP Flags: SYN)",
            "-> to-overlay FORWARDED (TCP Flags: ACK)",
            "-> to-overlay FORWARDED (TCP Flags: ACK, PSH)",
            "-> to-overlay FORWARDED (TCP Flags: ACK, FIN)",
        },
    )  # fmt: skip
    assert not any("<- " in kind for kind in found), "what the client sent"
    answers = {"<> pre-xlate-rev TRACED (TCP)", "<> post-xlate-rev TRANSLATED (TCP)"}
    replies = {"<- to-endpoint FORWARDED (TCP Flags: SYN, ACK)", "<- to-endpoint FORWARDED (TCP Flags: ACK, FIN)"}
    expect(mesh, "koornacht", ["--to-pod", f"default/{client}", "--last", "400"], answers | replies)
    opened = {"-> to-endpoint FORWARDED (TCP Flags: SYN)", "<- to-overlay FORWARDED (TCP Flags: SYN, ACK)"}
    expect(mesh, "tion", ["--pod", f"default/{client}", "--last", "400"], opened)
    assert any(f"default/{client}:" in line for line in lines(mesh, "tion", "--cluster", "koornacht", "--last", "400"))


def test_pings_are_seen_both_ways(mesh: Mesh, client: str) -> None:
    address = mesh.pod("tion", "rebel-base")[2]
    mesh.kubectl("koornacht", "exec", client, "--", "ping", "-c", "1", "-W", "2", address)
    echo = {"-> to-overlay FORWARDED (ICMPv4 EchoRequest)", "<- to-endpoint FORWARDED (ICMPv4 EchoReply)"}
    expect(mesh, "koornacht", ["--pod", client, "--protocol", "icmp", "--last", "50"], echo)
    echo = {"-> to-endpoint FORWARDED (ICMPv4 EchoRequest)", "<- to-overlay FORWARDED (ICMPv4 EchoReply)"}
    expect(mesh, "tion", ["--pod", client, "--protocol", "icmp", "--last", "50"], echo)


def test_denied_and_allowed_connections_name_how_they_were_judged(mesh: Mesh, client: str) -> None:
    address = mesh.pod("tion", "rebel-base")[2]
    with in_force(mesh, {"tion": [DENY_IN]}):

        def refused() -> bool:
            return not mesh.kubectl(
                "koornacht", "exec", client, "--", "ping", "-c", "1", "-W", "1", address, check=False
            ).stdout.count("1 received")

        wait_until("tion lets nobody in", refused)
        denied = {
            "<> policy-verdict:none INGRESS DENIED (ICMPv4 EchoRequest)",
            "<> Policy denied DROPPED (ICMPv4 EchoRequest)",
        }
        identity = str(identity_of(mesh, client))
        words = ["--pod", client, "--protocol", "icmp", "--last", "50", "--verdict=DROPPED", "--identity", identity]
        assert expect(mesh, "tion", words, denied) == denied, "nothing but what was dropped"
    with in_force(mesh, {"koornacht": [DENY_OUT]}):

        def shut() -> bool:
            ask_tion(mesh, client, OUTSIDE)
            return any(
                "EGRESS DENIED" in line for line in lines(mesh, "koornacht", "--from-pod", client, "--last", "400")
            )

        wait_until("the client may ask for names only", shut)
        ask_tion(mesh, client)
        expect(
            mesh, "koornacht", ["--from-pod", client, "--last", "400"],
            {
                "<> policy-verdict:none EGRESS DENIED (TCP Flags: SYN)",
                "<> Policy denied DROPPED (TCP Flags: SYN)",
                "-> policy-verdict:L3-L4 EGRESS ALLOWED (UDP)",
            },
        )  # fmt: skip
        named = lines(mesh, "koornacht", "--from-pod", client, "--type", "policy-verdict", "--print-policy-names")
        assert any("BY e2e-names-only (CiliumNetworkPolicy)" in line for line in named), named
    mesh.expect_whole()


def identity_of(mesh: Mesh, client: str) -> int:
    """The client's identity, as a line shows it."""
    for line in lines(mesh, "koornacht", "--pod", client, "--last", "100"):
        if found := re.search(rf"default/{client}(?::\d+)? \(ID:(\d+)\)", line):
            return int(found[1])
    raise LookupError(f"no line names {client}")

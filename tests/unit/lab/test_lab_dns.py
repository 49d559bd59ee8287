# SPDX-License-Identifier: Apache-2.0
"""The cluster DNS answers what the Kubernetes DNS specification says, and says so on the wire."""

from __future__ import annotations

import random

import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from lab.devkube.api.objects import Obj
from lab.images.dns.server import reply
from lab.images.dns.zone import Code, DnsZone


def service(name: str, **spec: object) -> Obj:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return {
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": "172.20.1.20", "ports": ports, **spec},
    }


def slice_of(name: str, *addresses: str, ready: bool = True) -> Obj:
    return {
        "metadata": {"namespace": "default", "name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address in addresses],
    }


@pytest.fixture
def zone() -> DnsZone:
    found = DnsZone()
    found.set_service(service("web"))
    found.set_service(service("pods", clusterIP="None"))
    found.set_slice(slice_of("pods", "10.1.1.2", "10.1.2.2"))
    found.set_service(service("away", type="ExternalName", clusterIP=None, externalName="example.org"))
    return found


def data(zone: DnsZone, name: str, kind: str = "A") -> list[str]:
    return sorted(record.data for record in zone.answer(name, kind).records)


def test_a_service_is_its_cluster_ip(zone: DnsZone) -> None:
    assert data(zone, "WEB.default.svc.cluster.local.") == ["172.20.1.20"]
    assert data(zone, "_http._tcp.web.default.svc.cluster.local", "SRV") == ["0 100 80 web.default.svc.cluster.local"]
    assert data(zone, "20.1.20.172.in-addr.arpa", "PTR") == ["web.default.svc.cluster.local"]


def test_a_headless_service_is_its_ready_pods(zone: DnsZone) -> None:
    assert data(zone, "pods.default.svc.cluster.local") == ["10.1.1.2", "10.1.2.2"]
    assert data(zone, "10-1-1-2.pods.default.svc.cluster.local") == ["10.1.1.2"]
    zone.set_slice(slice_of("pods", "10.1.1.2", ready=False))
    assert zone.answer("pods.default.svc.cluster.local", "A").code == Code.NO_ERROR
    assert data(zone, "pods.default.svc.cluster.local") == []


def test_absent_kinds_and_absent_names_are_told_apart(zone: DnsZone) -> None:
    assert zone.answer("web.default.svc.cluster.local", "AAAA").code == Code.NO_ERROR
    assert zone.answer("default.svc.cluster.local", "A").code == Code.NO_ERROR
    assert zone.answer("none.default.svc.cluster.local", "A").code == Code.NAME_ERROR
    assert zone.answer("example.org", "A").code == Code.NAME_ERROR


def test_an_external_name_is_an_alias(zone: DnsZone) -> None:
    assert data(zone, "away.default.svc.cluster.local") == ["example.org"]


def test_a_removed_service_is_forgotten(zone: DnsZone) -> None:
    zone.remove_service(service("web"))
    assert zone.answer("web.default.svc.cluster.local", "A").code == Code.NAME_ERROR


def test_answers_on_the_wire_carry_the_question_and_the_right_code(zone: DnsZone) -> None:
    for name, code, count in (("web", RCODE.NOERROR, 1), ("none", RCODE.NXDOMAIN, 0)):
        asked = DNSRecord.question(f"{name}.default.svc.cluster.local")
        packet = reply(zone, asked.pack(), limit=512, rng=random.Random(1))
        assert packet is not None
        answer = DNSRecord.parse(packet)
        assert (answer.header.id, answer.header.rcode, len(answer.rr)) == (asked.header.id, code, count)
        assert len(answer.auth) == 1 - count


def test_what_does_not_fit_into_a_datagram_says_so(zone: DnsZone) -> None:
    zone.set_slice(slice_of("pods", *(f"10.1.3.{i}" for i in range(1, 100))))
    question = DNSRecord.question("pods.default.svc.cluster.local").pack()
    short = reply(zone, question, limit=512, rng=random.Random(1))
    whole = reply(zone, question, limit=None, rng=random.Random(1))
    assert short is not None
    assert whole is not None
    assert len(short) <= 512
    assert DNSRecord.parse(short).header.tc
    assert len([rr for rr in DNSRecord.parse(whole).rr if rr.rtype == QTYPE.A]) == 99


@pytest.mark.parametrize("packet", [b"", b"\x00" * 5, b"\xff" * 40], ids=["nothing", "cut", "noise"])
def test_noise_is_not_answered(zone: DnsZone, packet: bytes) -> None:
    assert reply(zone, packet, limit=512, rng=random.Random(1)) is None

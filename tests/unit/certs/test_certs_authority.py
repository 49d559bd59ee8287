# SPDX-License-Identifier: Apache-2.0
"""What certificates contain, and who is believed."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from certs import profile
from certs.authority import Authority
from certs.bundle import TrustBundle
from certs.errors import CertificateError
from certs.inspect import issued_by, load, parse
from certs.rotation import Rotation, decide, renew_at_s
from tests.support.effort import examples

NOW = 1_800_000_000.0
DAY = 86_400.0


@pytest.fixture(scope="module")
def north() -> Authority:
    return Authority.create("mesh CA", NOW, 3650)


@pytest.fixture(scope="module")
def south() -> Authority:
    # the same subject on purpose: names prove nothing
    return Authority.create("mesh CA", NOW, 3650)


def test_the_server_certificate_covers_every_name_it_is_reached_by(north: Authority) -> None:
    issued = north.issue(profile.server("north", "kube-system", ["192.0.2.7", "mesh.example.org"]), NOW)
    info = parse(issued.cert_pem)[0]
    assert info.subject_cn == "clustermesh-apiserver.kube-system.svc"
    assert set(info.sans) == {
        "clustermesh-apiserver.kube-system.svc",
        "*.mesh.cilium.io",
        "north.mesh.cilium.io",
        "mesh.example.org",
        "127.0.0.1",
        "::1",
        "192.0.2.7",
    }


def test_a_server_certificate_is_no_client_and_a_client_no_server(north: Authority) -> None:
    usages = {}
    for made in (
        profile.server("north", "ns"),
        profile.admin("north"),
        profile.local("north"),
        profile.remote("north"),
    ):
        cert = load(north.issue(made, NOW).cert_pem)[0]
        usage = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        usages[made.common_name] = list(usage)
    assert usages == {
        "clustermesh-apiserver.ns.svc": [ExtendedKeyUsageOID.SERVER_AUTH],
        "admin-north": [ExtendedKeyUsageOID.CLIENT_AUTH],
        "local-north": [ExtendedKeyUsageOID.CLIENT_AUTH],
        "remote-north": [ExtendedKeyUsageOID.CLIENT_AUTH],
    }


def test_a_certificate_never_outlives_its_authority() -> None:
    short = Authority.create("short", NOW, 10)
    info = parse(short.issue(profile.admin("north"), NOW).cert_pem)[0]
    assert info.not_after_s == short.info.not_after_s
    assert info.not_before_s == NOW - 300


def test_an_authority_survives_being_stored(north: Authority) -> None:
    again = Authority.load(north.certificate_pem, north.key_pem)
    assert again.fingerprint == north.fingerprint
    issued = again.issue(profile.admin("north"), NOW)
    assert issued_by(issued.cert_pem, north.certificate_pem)


def test_an_authority_with_anothers_key_is_refused(north: Authority, south: Authority) -> None:
    leaf = north.issue(profile.admin("north"), NOW)
    with pytest.raises(CertificateError, match="does not belong"):
        Authority.load(north.certificate_pem, south.key_pem)
    with pytest.raises(CertificateError, match="not an authority"):
        Authority.load(leaf.cert_pem, leaf.key_pem)
    with pytest.raises(CertificateError, match="private key"):
        Authority.load(north.certificate_pem, b"nonsense")


def test_issued_by_looks_at_the_signature_not_at_the_subject(north: Authority, south: Authority) -> None:
    cert = north.issue(profile.remote("north"), NOW).cert_pem
    assert issued_by(cert, north.certificate_pem)
    assert not issued_by(cert, south.certificate_pem)
    assert issued_by(cert, south.certificate_pem + north.certificate_pem)


def test_a_leaf_does_not_vouch_for_anybody(north: Authority) -> None:
    leaf = north.issue(profile.remote("north"), NOW)
    forged = Authority(load(leaf.cert_pem)[0], _key(leaf.key_pem)).issue(profile.admin("north"), NOW)
    assert not issued_by(forged.cert_pem, leaf.cert_pem)
    assert TrustBundle({"north": north.certificate_pem}).signers(forged.cert_pem) == ()


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


@pytest.mark.parametrize("name", ["remote-south", "remote", "admin-north", "local-north", "root", "remote-west", ""])
def test_a_peers_certificate_is_the_peers_whatever_its_subject_says(
    north: Authority, south: Authority, name: str
) -> None:
    bundle = TrustBundle({"north": north.certificate_pem, "south": south.certificate_pem})
    assert bundle.signers(south.issue(profile.Profile(name or " "), NOW).cert_pem) == ("south",)


def test_certificates_of_an_authority_that_is_not_trusted_are_nobodys(north: Authority, south: Authority) -> None:
    bundle = TrustBundle({"north": north.certificate_pem})
    assert bundle.signers(south.issue(profile.remote("north"), NOW).cert_pem) == ()
    assert bundle.signers(b"nonsense") == ()
    assert bundle.signers(b"") == ()
    bundle.set_authority("south", south.certificate_pem)
    assert bundle.signers(south.issue(profile.remote("south"), NOW).cert_pem) == ("south",)
    bundle.forget("south")
    assert bundle.signers(south.issue(profile.remote("south"), NOW).cert_pem) == ()


def test_clusters_that_share_an_authority_all_sign_what_it_signed(north: Authority, south: Authority) -> None:
    bundle = TrustBundle(
        {"north": north.certificate_pem, "west": north.certificate_pem, "south": south.certificate_pem}
    )
    shared = north.issue(profile.remote("west"), NOW).cert_pem
    assert bundle.signers(shared) == ("north", "west")
    # an authority that is not shared gets nothing by using such a name
    assert bundle.signers(south.issue(profile.remote("west"), NOW).cert_pem) == ("south",)


def test_the_union_holds_every_authority_once(north: Authority, south: Authority) -> None:
    bundle = TrustBundle(
        {"north": north.certificate_pem, "west": north.certificate_pem, "south": south.certificate_pem}
    )
    assert {info.fingerprint for info in parse(bundle.union_pem)} == {north.fingerprint, south.fingerprint}
    assert len(parse(bundle.union_pem)) == 2


def test_a_peer_may_have_two_authorities_while_it_changes_one(north: Authority, south: Authority) -> None:
    bundle = TrustBundle({"south": north.certificate_pem + south.certificate_pem})
    for authority in (north, south):
        assert bundle.signers(authority.issue(profile.remote("south"), NOW).cert_pem) == ("south",)


def test_an_unreadable_bundle_changes_nothing(north: Authority) -> None:
    bundle = TrustBundle({"south": north.certificate_pem})
    with pytest.raises(CertificateError, match="CA of south"):
        bundle.set_authority("south", b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n")
    assert bundle.names() == ("south",)
    assert bundle.pem("south") == north.certificate_pem
    assert bundle.pem("unknown") == b""


@settings(max_examples=examples(200))
@given(st.binary(max_size=400))
def test_no_bytes_crash_the_reader(content: bytes) -> None:
    """Whatever stands where a certificate should, the answer is a CertificateError or certificates."""
    for text in (content, b"-----BEGIN CERTIFICATE-----\n" + content + b"\n-----END CERTIFICATE-----\n"):
        try:
            parse(text)
        except CertificateError:
            continue


@pytest.mark.parametrize(
    ("used", "verdict"),
    [
        (0.0, Rotation.KEEP),
        (0.66, Rotation.KEEP),
        (0.67, Rotation.RENEW),
        (0.89, Rotation.RENEW),
        (0.91, Rotation.ALARM),
        (1.0, Rotation.ALARM),
        (5.0, Rotation.ALARM),
    ],
)
def test_rotation_keeps_then_renews_then_alarms(north: Authority, used: float, verdict: Rotation) -> None:
    info = parse(north.issue(profile.admin("north"), NOW).cert_pem)[0]
    assert decide(info.not_before_s + used * (info.not_after_s - info.not_before_s), info) is verdict
    assert decide(renew_at_s(info), info) is Rotation.RENEW

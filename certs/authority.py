# SPDX-License-Identifier: Apache-2.0
"""A cluster's certificate authority: the one key that decides who its programs are."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.errors import CertificateError
from certs.inspect import CertInfo, describe, is_authority, load
from certs.profile import Profile

CLOCK_SKEW: Final = timedelta(minutes=5)
BACKDATED_SHARE: Final = 0.1
"""Of a life so short that the skew would be most of it, certificates are backdated by this share only."""
BEHIND_SHARE: Final = 0.5
"""For a clock that is known to be behind, certificates are backdated further, by this share of their life at most: they would be
due when they are new otherwise."""
DEFAULT_AUTHORITY_DAYS: Final = 3650

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate and its private key, which exists nowhere else."""

    cert_pem: bytes
    key_pem: bytes


class Authority:
    """Signs certificates; `certificate_pem` is public, `key_pem` never leaves its cluster."""

    def __init__(self, cert: x509.Certificate, key: SigningKey) -> None:
        self._cert, self._key = cert, key

    @classmethod
    def create(
        cls, common_name: str, wall_s: float, days: float = DEFAULT_AUTHORITY_DAYS, *, behind_s: float = 0.0
    ) -> Self:
        """A new self-signed authority, valid from a little before `wall_s` to allow for clocks that disagree.

        `behind_s` is how far one is known to be behind ours.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        start, life = datetime.fromtimestamp(wall_s, UTC), timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - _backdated(life, behind_s))
            .not_valid_after(start + life)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(sign=False, sign_certificates=True), critical=True)
            # peers' authorities may share a subject; the key identifier tells them apart while a chain is built
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, cert_pem: bytes, key_pem: bytes) -> Self:
        """The authority of a certificate and its key.

        Raises: CertificateError if either cannot be read, they do not belong together, or it is no authority.
        """
        cert = load(cert_pem, "CA certificate")[0]
        if not is_authority(cert):
            raise CertificateError("CA certificate", "is not an authority")
        try:
            key = serialization.load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError) as exc:
            raise CertificateError("CA key", "not an unencrypted PEM private key") from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise CertificateError("CA key", "neither an EC nor an RSA key")
        if key.public_key() != cert.public_key():
            raise CertificateError("CA key", "does not belong to the CA certificate")
        return cls(cert, key)

    @property
    def certificate_pem(self) -> bytes:
        """What peers need to trust us."""
        return self._cert.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The signing key; store it 0600 or in a Secret, nowhere else."""
        return _key_pem(self._key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate in hex: what two operators compare."""
        return self._cert.fingerprint(hashes.SHA256()).hex()

    @property
    def info(self) -> CertInfo:
        """What the authority's own certificate says."""
        return describe(self._cert, "CA certificate")

    def issue(self, profile: Profile, wall_s: float, *, behind_s: float = 0.0) -> Issued:
        """A certificate with a fresh key that contains exactly what the profile says and never outlives us.

        `behind_s` is how far a clock that is to accept it is known to be behind ours.
        Raises: CertificateError if our own certificate has ended, or is not valid yet.
        """
        if not self.info.not_before_s <= wall_s < self.info.not_after_s:
            raise CertificateError("CA certificate", "is not valid now, so it signs nothing")
        key = ec.generate_private_key(ec.SECP256R1())
        start, life = datetime.fromtimestamp(wall_s, UTC), timedelta(days=profile.days)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if profile.is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, profile.common_name)]))
            .issuer_name(self._cert.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(start - _backdated(life, behind_s), self._cert.not_valid_before_utc))
            .not_valid_after(min(start + life, self._cert.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign=True, sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(self._key_identifier(), critical=False)
        )
        if profile.dns_names or profile.addresses:
            builder = builder.add_extension(x509.SubjectAlternativeName(_names(profile)), critical=False)
        cert = builder.sign(self._key, hashes.SHA256())
        return Issued(cert.public_bytes(serialization.Encoding.PEM), _key_pem(key))

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        try:
            own = self._cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        except x509.ExtensionNotFound:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _backdated(life: timedelta, behind_s: float) -> timedelta:
    return min(CLOCK_SKEW, life * BACKDATED_SHARE) + min(timedelta(seconds=behind_s), life * BEHIND_SHARE)


def _names(profile: Profile) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in profile.dns_names]
    return names + [x509.IPAddress(ipaddress.ip_address(address)) for address in profile.addresses]


def _key_pem(key: SigningKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _key_usage(*, sign: bool, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )

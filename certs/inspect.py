# SPDX-License-Identifier: Apache-2.0
"""Read certificates: what they say, and whether one authority really signed another certificate."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from certs.errors import CertificateError


@dataclass(frozen=True, slots=True)
class CertInfo:
    """What one certificate states about itself; times are wall-clock seconds."""

    subject_cn: str
    not_before_s: float
    not_after_s: float
    sans: tuple[str, ...]
    issuer: str
    serial: int
    is_authority: bool = False
    fingerprint: str = ""


def load(pem: bytes, what: str = "certificate") -> list[x509.Certificate]:
    """Every certificate of a PEM text, in its order; at least one.

    Raises: CertificateError if there is none, or one cannot be read.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, TypeError) as exc:
        raise CertificateError(what, "not a PEM certificate") from exc


def parse(pem: bytes, what: str = "certificate") -> list[CertInfo]:
    """What each certificate of a PEM text says.

    Raises: CertificateError if there is none, or one cannot be read.
    """
    return [describe(cert, what) for cert in load(pem, what)]


def describe(cert: x509.Certificate, what: str = "certificate") -> CertInfo:
    """What one parsed certificate says; names that are not plain text or addresses are left out."""
    try:
        return CertInfo(
            subject_cn=common_name(cert.subject),
            not_before_s=cert.not_valid_before_utc.timestamp(),
            not_after_s=cert.not_valid_after_utc.timestamp(),
            sans=_sans(cert),
            issuer=common_name(cert.issuer),
            serial=cert.serial_number,
            is_authority=is_authority(cert),
            fingerprint=cert.fingerprint(hashes.SHA256()).hex(),
        )
    except ValueError as exc:  # extensions are read on demand, so a broken one surfaces here
        raise CertificateError(what, "a part of the certificate cannot be read") from exc


def issued_by(cert_pem: bytes, ca_pem: bytes) -> bool:
    """True only if one of the authorities in `ca_pem` signed the first certificate of `cert_pem`."""
    leaf = load(cert_pem)[0]
    return any(signed(leaf, ca) for ca in load(ca_pem, "CA certificate"))


def signed(cert: x509.Certificate, ca: x509.Certificate) -> bool:
    """True only if `ca` is an authority and its key made the signature of `cert`; subject text alone proves nothing."""
    if not is_authority(ca):
        return False
    try:
        cert.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_authority(cert: x509.Certificate) -> bool:
    """True if the certificate may sign others."""
    try:
        return cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def common_name(name: x509.Name) -> str:
    """The one common name, or an empty text when there is none or more than one."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(found) != 1:
        return ""
    value = found[0].value
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _sans(cert: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    names = extension.value.get_values_for_type(x509.DNSName)
    return (*names, *(str(address) for address in extension.value.get_values_for_type(x509.IPAddress)))

# SPDX-License-Identifier: Apache-2.0
"""Whether a private key is the one of a certificate: files that are read while they are replaced may not fit."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization

from certs.errors import CertificateError
from certs.inspect import load


def check_pair(cert_pem: bytes, key_pem: bytes) -> None:
    """Raises: CertificateError if either cannot be read, or they do not belong together."""
    cert = load(cert_pem)[0]
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as exc:
        raise CertificateError("private key", "not an unencrypted PEM private key") from exc
    if key.public_key() != cert.public_key():
        raise CertificateError("private key", "does not belong to the certificate")

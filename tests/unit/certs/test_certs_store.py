# SPDX-License-Identifier: Apache-2.0
"""Certificates in files and Secrets."""

from __future__ import annotations

import pytest

from certs.errors import CertificateError
from certs.store import (
    CertFiles,
    decode_entry,
    encode_data,
    from_secret_data,
    secret_data,
)

FILES = CertFiles(b"ca", b"cert", b"the private key")


def test_secret_data_comes_back() -> None:
    data = secret_data(FILES)
    assert set(data) == {"ca.crt", "tls.crt", "tls.key"}
    assert from_secret_data(data) == FILES
    assert decode_entry(encode_data({"ca.key": b"x"}), "ca.key") == b"x"


@pytest.mark.parametrize("data", [None, {}, {"ca.crt": "", "tls.crt": "eA==", "tls.key": "eA=="}])
def test_a_secret_without_an_entry_is_refused(data: dict[str, str] | None) -> None:
    with pytest.raises(CertificateError, match=r"my secret: has no entry ca\.crt"):
        from_secret_data(data, "my secret")


def test_a_secret_that_is_not_base64_is_refused() -> None:
    with pytest.raises(CertificateError, match="not base64"):
        decode_entry({"ca.crt": "%%%"}, "ca.crt")


def test_the_key_is_never_shown() -> None:
    assert "private" not in repr(FILES)

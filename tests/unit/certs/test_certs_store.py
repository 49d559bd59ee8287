# SPDX-License-Identifier: Apache-2.0
"""Certificates in files and Secrets."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from certs.errors import CertificateError
from certs.store import (
    CertFiles,
    decode_entry,
    encode_data,
    from_secret_data,
    read_files,
    secret_data,
    write_files,
)

FILES = CertFiles(b"ca", b"cert", b"the private key")


def test_files_come_back_and_are_nobody_elses_business(tmp_path: Path) -> None:
    directory = tmp_path / "tls"
    write_files(directory, FILES)
    assert read_files(directory) == FILES
    assert {path.name for path in directory.iterdir()} == {"ca.crt", "tls.crt", "tls.key"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in directory.iterdir())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    (tmp_path / "tls.key").unlink()
    with pytest.raises(CertificateError, match=r"tls\.key: No such file"):
        read_files(tmp_path)
    (tmp_path / "tls.key").touch()
    with pytest.raises(CertificateError, match=r"tls\.key: is empty"):
        read_files(tmp_path)


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

# SPDX-License-Identifier: Apache-2.0
"""A file decides one thing, so that it stays small enough to be read at once."""

from __future__ import annotations

from tests.unit.architecture.source_tree import REPOSITORY

LONGEST = 400
WRITTEN = (".py", ".c", ".h", ".sh")
GENERATED = ("_pb2.py", "_pb2.pyi")


def test_no_source_file_is_longer_than_400_lines() -> None:
    """Generated files and data are no source."""
    names = [
        path
        for root in ("agent", "clustermesh_apiserver", "clustermesh_cli", "certs", "kube", "kubeintent", "kvstore", "lab",
                     "flows", "meshapi", "meshkit", "meshmodel", "meshpeer", "meshpolicy", "relay", "deploy",
                     "scripts", "tests", "e2e")
        for path in (REPOSITORY / root).rglob("*")
        if path.name.endswith(WRITTEN) and not path.name.endswith(GENERATED)
    ]  # fmt: skip
    assert len(names) > 500
    lengths = {path.relative_to(REPOSITORY).as_posix(): len(path.read_bytes().splitlines()) for path in names}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}

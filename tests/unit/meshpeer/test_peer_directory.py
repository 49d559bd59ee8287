# SPDX-License-Identifier: Apache-2.0
"""The configuration directory as Kubernetes and people change it: conformance T14."""

from __future__ import annotations

from pathlib import Path

from meshmodel.names import ClusterName
from meshpeer.directory import DirectoryDifference, compare, read_directory

OWN = ClusterName("north")
CONTENT = b"endpoints:\n- https://south.mesh.cilium.io:2379\n"


def mount(volume: Path, version: str, files: dict[str, bytes]) -> None:
    """As the kubelet does: a new directory, then one symlink swapped by rename."""
    data = volume / f"..{version}"
    data.mkdir()
    for name, content in files.items():
        (data / name).write_bytes(content)
    link = volume / "..data_tmp"
    link.symlink_to(data.name)
    link.rename(volume / "..data")
    for name in files:
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(f"..data/{name}")
    for entry in volume.iterdir():
        if entry.is_symlink() and entry.name != "..data" and not entry.exists():
            entry.unlink()


def test_a_file_is_a_peer_when_it_names_endpoints(tmp_path: Path) -> None:
    (tmp_path / "south").write_bytes(CONTENT)
    (tmp_path / "south.etcd-client-ca.crt").write_bytes(b"-----BEGIN CERTIFICATE-----")
    (tmp_path / "notes").write_bytes(b"nothing")
    (tmp_path / "folder").mkdir()
    listing = read_directory(tmp_path, OWN)
    assert dict(listing.configs) == {"south": CONTENT}
    assert not listing.refused


def test_the_own_name_is_ignored_and_an_impossible_name_refused(tmp_path: Path) -> None:
    for name in ("north", "South", "default", "-x"):
        (tmp_path / name).write_bytes(CONTENT)
    listing = read_directory(tmp_path, OWN)
    assert not listing.configs
    assert sorted(listing.refused) == ["-x", "South", "default"]


def test_a_swapped_symlink_changes_and_the_same_content_does_not(tmp_path: Path) -> None:
    mount(tmp_path, "1", {"south": CONTENT})
    first = read_directory(tmp_path, OWN)
    mount(tmp_path, "2", {"south": CONTENT})
    second = read_directory(tmp_path, OWN)
    assert compare(first.configs, second) == DirectoryDifference((), ())
    mount(tmp_path, "3", {"south": CONTENT + b"# other\n", "east": CONTENT})
    third = read_directory(tmp_path, OWN)
    assert compare(second.configs, third).changed == ("east", "south")
    assert compare(second.configs, third).removed == ()
    mount(tmp_path, "4", {"east": CONTENT})
    assert compare(third.configs, read_directory(tmp_path, OWN)).removed == ("south",)


def test_a_truncated_file_is_a_removal(tmp_path: Path) -> None:
    (tmp_path / "south").write_bytes(CONTENT)
    before = read_directory(tmp_path, OWN).configs
    (tmp_path / "south").write_bytes(b"")
    assert compare(before, read_directory(tmp_path, OWN)).removed == ("south",)


def test_a_missing_directory_has_no_peers(tmp_path: Path) -> None:
    assert not read_directory(tmp_path / "absent", OWN).configs


def test_what_cannot_be_read_is_refused_and_not_removed(tmp_path: Path) -> None:
    (tmp_path / "south").write_bytes(CONTENT)
    known = read_directory(tmp_path, OWN).configs
    (tmp_path / "south").unlink()
    (tmp_path / "south").symlink_to(tmp_path / "south")  # a loop: every read of it is an error, for root too
    listing = read_directory(tmp_path, OWN)
    assert list(listing.refused) == ["south"]
    assert compare(known, listing) == DirectoryDifference((), ())
    (tmp_path / "south").unlink()
    assert compare(known, read_directory(tmp_path, OWN)).removed == ("south",)


def test_a_directory_that_cannot_be_read_removes_nobody(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    listing = read_directory(path, OWN)
    assert str(path) in listing.refused
    assert compare({ClusterName("south"): CONTENT}, listing) == DirectoryDifference((), ())

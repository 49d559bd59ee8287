# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshkit.atomic import write_atomic
from meshkit.filewatch import watch_directory


def test_a_file_gets_its_content_and_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "tls.key"
    write_atomic(target, b"one")
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"one", 0o600)
    write_atomic(target, b"two", 0o644)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"two", 0o644)
    assert [p.name for p in tmp_path.iterdir()] == ["tls.key"]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "tls.key"
    write_atomic(target, b"old")

    def refuse(self: Path, other: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["tls.key"]


async def test_a_swapped_symlink_is_noticed(tmp_path: Path) -> None:
    """Kubernetes' volumes: files are links into ..data, which is a link that is renamed over."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "peer").write_text(version)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "peer").symlink_to("..data/peer")
    changes = watch_directory(tmp_path, poll_interval_s=1.0)
    await _next(changes)
    (tmp_path / "..tmp").symlink_to("v2")
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    await _next(changes)
    assert (tmp_path / "peer").read_text() == "v2"
    await _close(changes)


async def test_a_notification_is_enough_without_waiting_for_the_next_look(tmp_path: Path) -> None:
    changes = watch_directory(tmp_path, poll_interval_s=600.0)
    await _next(changes)
    waiting = asyncio.ensure_future(anext(changes))
    for number in range(500):  # the watch starts in its own time: change until it is there
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / "..tmp").symlink_to(f"v{number}")
        (tmp_path / "..tmp").replace(tmp_path / "..data")
        done, _ = await asyncio.wait({waiting}, timeout=0.02)
        if done and number:
            break
        if done:
            waiting = asyncio.ensure_future(anext(changes))
    assert waiting.done()
    await _close(changes)


async def test_a_directory_that_appears_later_and_is_replaced_is_watched(tmp_path: Path) -> None:
    directory = tmp_path / "config"
    changes = watch_directory(directory, poll_interval_s=0.05)
    await _next(changes)
    directory.mkdir()
    await _next(changes)
    (directory / "peer").write_text("one")
    await _next(changes)
    directory.rename(tmp_path / "old")
    await _next(changes)
    directory.mkdir()
    (directory / "peer").write_text("two")
    await _next(changes)
    await _close(changes)


async def test_touching_a_file_without_changing_it_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "peer").write_text("one")
    changes = watch_directory(tmp_path, poll_interval_s=0.05)
    await _next(changes)
    (tmp_path / "peer").write_text("one")
    waiting = asyncio.ensure_future(anext(changes))
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not done
    (tmp_path / "peer").write_text("two")
    await asyncio.wait_for(waiting, 5)
    await _close(changes)


async def _next(changes: AsyncIterator[None]) -> None:
    await asyncio.wait_for(anext(changes), 5)


async def _close(changes: AsyncIterator[None]) -> None:
    close = getattr(changes, "aclose", None)
    if close is not None:
        await close()

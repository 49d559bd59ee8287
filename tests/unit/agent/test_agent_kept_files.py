# SPDX-License-Identifier: Apache-2.0
"""What an agent keeps on its node's disk for the next one is gone after it was uninstalled."""

from __future__ import annotations

from pathlib import Path

from agent.fqdn.name_file import directory_of as name_directory
from agent.kept_files import remove_kept_files
from agent.settings import AgentSettings
from agent.shared_directory import proxy_files


def test_names_and_files_of_proxies_are_gone_and_the_rest_stays(tmp_path: Path) -> None:
    settings = AgentSettings(socket=tmp_path / "run/agent.sock")
    files = proxy_files(settings)
    for directory in (files.dns, name_directory(settings), files.envoy):
        assert directory.parent == tmp_path / "run", "on the volume of the manifest"
        directory.mkdir(parents=True)
        (directory / "kept.json").write_text("[]")
    (tmp_path / "run/agent.sock").touch()
    remove_kept_files(settings)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "run", tmp_path / "run/agent.sock"]
    remove_kept_files(settings)

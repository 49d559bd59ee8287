# SPDX-License-Identifier: Apache-2.0
"""What stays on the node's disk from one agent to the next: names that pods were told, and the files of proxies, which end
without them."""

from __future__ import annotations

import shutil

from agent.fqdn import name_file
from agent.settings import AgentSettings
from agent.shared_directory import proxy_files


def remove_kept_files(settings: AgentSettings) -> None:
    """Nothing of it is left. What cannot be removed stays: it harms nobody."""
    files = proxy_files(settings)
    for directory in (files.dns, name_file.directory_of(settings), files.envoy):
        shutil.rmtree(directory, ignore_errors=True)

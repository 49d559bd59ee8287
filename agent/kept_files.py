# SPDX-License-Identifier: Apache-2.0
"""What stays on the node's disk from one agent to the next: names that pods were told, and the files of proxies."""

from __future__ import annotations

import shutil

from agent.dns import process as dns_process
from agent.fqdn import name_file
from agent.proxy import process as envoy_process
from agent.settings import AgentSettings


def remove_kept_files(settings: AgentSettings) -> None:
    """Nothing of it is left. What cannot be removed stays: it harms nobody."""
    for module in (dns_process, name_file, envoy_process):
        shutil.rmtree(module.directory_of(settings), ignore_errors=True)

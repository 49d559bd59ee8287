# SPDX-License-Identifier: Apache-2.0
"""How many connections a pod may have through a proxy that may open so many files."""

from __future__ import annotations

import pytest

from agent.proxykeeper.pod_shares import share_of


@pytest.mark.parametrize(("files", "share"), [(1 << 20, 4096), (20_000, 1250), (1024, 64), (4, 1)])
def test_a_share_leaves_files_for_other_pods(files: int, share: int) -> None:
    assert share_of(4096, files) == share

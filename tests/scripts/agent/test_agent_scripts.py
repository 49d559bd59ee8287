# SPDX-License-Identifier: Apache-2.0
"""Every *.txtar beside this file, as one test each."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_script import AgentScript

from tests.support.script import scripts_in


@pytest.mark.parametrize("path", scripts_in(Path(__file__).parent), ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    AgentScript.run_file(path)

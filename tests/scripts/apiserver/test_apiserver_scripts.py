# SPDX-License-Identifier: Apache-2.0
"""Every *.txtar beside this file, as one test each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripts.apiserver.apiserver_script import Script

SCRIPTS = sorted(Path(__file__).parent.glob("*.txtar"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    Script(path).run()

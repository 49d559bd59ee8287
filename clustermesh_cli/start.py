# SPDX-License-Identifier: Apache-2.0
"""Where the command starts: quiet while it loads, then every way of ending is one line at most."""

from __future__ import annotations

from typing import NoReturn

from meshkit.last_words import end_quietly_on_interrupt, run


def main() -> NoReturn:
    """Run the command."""
    end_quietly_on_interrupt()
    from clustermesh_cli.app import run_app

    run(run_app)

# SPDX-License-Identifier: Apache-2.0
"""Where the command starts: quiet while it loads, then every way of ending is one line at most."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the rest loads, Ctrl-C ends without a word: nothing was begun
    from meshkit.loading import loading

    with loading():
        from clustermesh_cli.app import run_app
        from meshkit.last_words import run

    run(run_app)

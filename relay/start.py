# SPDX-License-Identifier: Apache-2.0
"""Where the command `clustermesh-relay` starts."""

from __future__ import annotations

import sys

from meshkit.loading import loading


def main() -> int:
    """Load the program, run it; returns its exit code."""
    with loading():
        from relay.app import main as run_program

    return run_program()


if __name__ == "__main__":
    sys.exit(main())

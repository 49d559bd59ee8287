# SPDX-License-Identifier: Apache-2.0
"""Where the command `clustermesh-apiserver` starts."""

from __future__ import annotations

import sys

from meshkit.loading import loading


def main() -> int:
    """Load the program, run it; returns its exit code."""
    with loading():
        from clustermesh_apiserver.app import main as run_program

    return run_program()


if __name__ == "__main__":
    sys.exit(main())

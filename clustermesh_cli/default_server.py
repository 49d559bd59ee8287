# SPDX-License-Identifier: Apache-2.0
"""Where a relay of flows is looked for unless the command is told: the variable and the address of Hubble's command."""

from __future__ import annotations

from typing import Final

SERVER_VARIABLE: Final = "HUBBLE_SERVER"
DEFAULT_SERVER: Final = "localhost:4245"

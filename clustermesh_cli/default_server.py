# SPDX-License-Identifier: Apache-2.0
"""Where a relay of flows is looked for: the variable and the port of Hubble's command."""

from __future__ import annotations

from typing import Final

from meshapi.installed import RELAY_PORT

SERVER_VARIABLE: Final = "HUBBLE_SERVER"
LOCAL_PORT: Final = RELAY_PORT

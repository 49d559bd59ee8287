# SPDX-License-Identifier: Apache-2.0
"""The loaded node of the packet tests, for what is held to the kernel here."""

from __future__ import annotations

from tests.packet.conftest import node, packet_node

__all__ = ["node", "packet_node"]

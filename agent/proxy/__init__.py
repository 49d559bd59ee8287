# SPDX-License-Identifier: Apache-2.0
"""The node's proxy: one Envoy that enforces rules about requests, for what policy entries send to its ports.

Belongs here: its configuration and what it tells. Not what rules mean (`meshpolicy`), how packets reach it (`agent.datapath`)
or who starts it (`agent.proxykeeper`). Only `agent.node_agent` imports it.
"""

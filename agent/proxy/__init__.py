# SPDX-License-Identifier: Apache-2.0
"""The node's proxy: one Envoy that enforces rules about requests, for what policy entries send to its ports.

Belongs here: its configuration, its process, what it tells. Not what rules mean (`meshpolicy`), nor how packets reach it
(`agent.datapath`). Only `agent.node_agent`, `agent.app` and `agent.kept_files` import it.
"""

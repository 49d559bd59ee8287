# SPDX-License-Identifier: Apache-2.0
"""Nodes of every cluster. What their addresses and pod networks mean to packets is the ipcache's business.

Only `agent.node_agent` and `agent.mesh` import it.
"""

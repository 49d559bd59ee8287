# SPDX-License-Identifier: Apache-2.0
"""Nodes of every cluster. What their addresses and pod networks mean to packets is the ipcache's business.

Only `agent.app`, `agent.status_api` and `agent.mesh.ingest` import it.
"""

# SPDX-License-Identifier: Apache-2.0
"""Keeps what happened on this node for those who ask later: sessions, nodes, policies, parts. Decides nothing.

Only `agent.node_agent` imports it.
"""

# SPDX-License-Identifier: Apache-2.0
"""Tells this node's programs that an agent keeps their maps up to date (ADR 19). Nothing else belongs here.

Only `agent.node_agent` imports it.
"""

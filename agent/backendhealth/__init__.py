# SPDX-License-Identifier: Apache-2.0
"""Asks pods of this node whether they are well, where their service wants that, and tells all agents and the apiserver (ADR 38).

`verdicts` (pure) counts answers, `asking` asks, `lease` writes what came out. Only `agent.node_agent` imports it.
"""

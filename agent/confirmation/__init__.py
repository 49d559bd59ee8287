# SPDX-License-Identifier: Apache-2.0
"""Tells the cluster's apiserver which pods of this node are enforced and forwarded for (ADR 30). It decides nothing itself.

Only `agent.node_agent` imports it.
"""

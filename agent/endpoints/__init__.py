# SPDX-License-Identifier: Apache-2.0
"""Which pods of this node have an interface to enforce on. Who they are comes from the prefixes table, never from Kubernetes.

Only `agent.node_agent` imports it.
"""

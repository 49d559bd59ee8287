# SPDX-License-Identifier: Apache-2.0
"""Policies of the own cluster, to what the kernel enforces for each pod of this node.

`source` reads the objects, `compiler` feeds `meshpolicy` and writes the verdicts table, `plan` (pure) orders the writes of one
change so that no packet is judged by something neither the old nor the new policy says, `ops` does them. What a rule means
is decided in `meshpolicy`, never here. Only `agent.node_agent` imports it.
"""

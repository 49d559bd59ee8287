# SPDX-License-Identifier: Apache-2.0
"""Which address is whose: claims of pods, nodes, pod networks and policies, to the ipcache map.

`writer` holds the only verbs on the prefixes table, `ops` writes the map. Nothing here decides what an identity may do.
Only `agent.node_agent` and `agent.mesh` import it.
"""

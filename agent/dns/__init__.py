# SPDX-License-Identifier: Apache-2.0
"""The node's DNS proxy: a process that lets pods ask for the names that policies allow them, and tells what they heard.

Belongs here: DNS on the wire, the process and its sockets, and the feature that hears what it tells. Not what rules mean
(`meshpolicy`), how packets reach it (`agent.datapath`), what becomes of answers, or who starts it (`agent.proxykeeper`). Only
`agent.node_agent` imports it.
"""

# SPDX-License-Identifier: Apache-2.0
"""The node's DNS proxy: a process that lets pods ask for the names that policies allow them, and tells what they heard.

Belongs here: DNS on the wire, the process and its sockets, and the feature that starts it and hears what it tells. Not what
rules mean (`meshpolicy`), nor how packets reach it (`agent.datapath`), nor what becomes of answers. Only `agent.node_agent`,
`agent.app` and `agent.kept_files` import it.
"""

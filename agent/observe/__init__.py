# SPDX-License-Identifier: Apache-2.0
"""What the datapath saw, in words: events of the ring buffer to flow records with names, kept in a ring, printed as lines.

`flow` and `text` are pure. Names are looked up in the tables when the event is decoded and not changed later.
Only `agent.node_agent` imports it.
"""

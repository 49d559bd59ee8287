# SPDX-License-Identifier: Apache-2.0
"""What the datapath saw: records of the ring buffer become entries of the ring of flows, which REST and gRPC answer from.

`agent_events`, `flow`, `sides`, `translation`, `connections` and `flood` are pure. Names are looked up in the tables when a
record arrives and not changed later; the rest of a flow is decoded when somebody asks. The format of flows, filters and
answers is that of `flows`.
Only `agent.node_agent` imports it.
"""

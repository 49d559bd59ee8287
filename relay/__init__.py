# SPDX-License-Identifier: Apache-2.0
"""Program 4, one per cluster: flows of all nodes as one stream, in the order of time, and the page that shows them.

Belongs here: which observers there are (`nodes`), the stream that a request makes of theirs, what peers' relays may see,
and where all of it is served. The page is in `page`, which sees the rest through `view` alone.
Does not belong here: gRPC and the messages (`flows`), and how a flow is made (`agent.observe`).

No other program imports it; the lab starts it as a process.
"""

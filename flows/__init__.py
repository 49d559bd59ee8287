# SPDX-License-Identifier: Apache-2.0
"""What happened to packets: Hubble's flow messages, the language in which they are asked for, and how they are printed.

Belongs here: the messages (`proto`), the words for their numbers, filters, printers, the ring of a node's flows and
what a request takes out of it, the order of several nodes' flows (`merge`), and gRPC, which nobody else knows: servers that
unmodified Hubble clients speak to (`server` of a node, `relay_server` of a cluster, on `listener`) and those who ask them
(`client`, `remote`). Everything but these, `streams`, `live` and the generated messages is pure.
Does not belong here: how a flow is made of an event of the kernel (`agent.observe`), and what policies mean.

There is one flow: `proto.flow_pb2.Flow`. Programs read and make it; no other form of a flow is kept or sent.
"""

# SPDX-License-Identifier: Apache-2.0
"""What happened to packets: Hubble's flow messages, the language in which they are asked for, and how they are printed.

Belongs here: the messages (`proto`), the words for their numbers, filters, printers, the ring of a node's flows and
what a request takes out of it, and the gRPC server that unmodified Hubble clients speak to (`server`, the only module
that knows gRPC). Everything but `server`, `streams`, `live` and the generated messages is pure.
Does not belong here: how a flow is made of an event of the kernel (`agent.observe`), and what policies mean.

There is one flow: `proto.flow_pb2.Flow`. Programs read and make it; no other form of a flow is kept or sent.
"""

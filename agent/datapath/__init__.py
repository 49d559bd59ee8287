# SPDX-License-Identifier: Apache-2.0
"""The kernel boundary: structs, maps, programs, links and devices of one node.

Belongs here: what the kernel's own words can name (a service slot, a prefix, an identity number, an interface).
Does not belong here: Kubernetes objects, peers, policies as people write them; features turn those into rows first.
Only this package makes bpf(2) calls or speaks netlink; errors of both are translated here and nowhere else.

    layout    one NamedTuple per map record, packed as the structs of bpf/abi.h
    maps      the seam: what a map can do, and the set of maps of a node
    memory    the same maps in memory, with faults and invariant checks
    kernel    the same maps through bpf(2), with batches
    loader    programs, pins and attachments of one node
    program_constants what programs are loaded with: struct config of bpf/abi.h
    events    records out of the ring buffer
    netlink   overlay device, MTU, tc filters, sysctls
    rtnetlink where a pod address is, and what changes among interfaces and routes
    lock      one agent per node
    features  what this kernel can do: present, absent, or undetermined
"""

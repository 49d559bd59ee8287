# SPDX-License-Identifier: Apache-2.0
"""Program 1: what this cluster says to its peers.

Data flows one way through the rooms: `source` (Kubernetes → `tables`) → `convert` (rows → one whole record or none) →
`publish` (etcd, on leases) → `serve` (the read-only facade, and who reads what). Beside them: `identity` allocates
identities where nobody else does, `mirror` copies peers into our own etcd, `status` tells people how it is going.
`run` puts the rooms together, `app` is the command. Nothing here is imported by another program.
"""

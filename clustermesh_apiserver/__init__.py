# SPDX-License-Identifier: Apache-2.0
"""Program 1: what this cluster says to its peers.

Data flows one way: `source` (reflectors) → `tables` (what Kubernetes wants) → `convert_*` (pure: one whole record or
none) → `publish` (etcd, on leases) → the read-only facade (`front`), which decides who reads what (`access`).
Beside it: identities are allocated where nobody else does (`identity_*`), the etcd of this program is run and guarded
(`etcd_service`), peers are copied into it (`mirror`), and people ask how it is going (`status_api`).

Modules named convert_*, intent, strip, tables, owner_queue, identity_book and access are pure. Nothing here is imported
by another program.
"""

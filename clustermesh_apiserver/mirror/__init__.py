# SPDX-License-Identifier: Apache-2.0
"""Copies of peers' records in our own etcd, so that our agents read one store near them (KVStoreMesh's role).

`peers` follows the configured peers through `meshpeer`, with one `peer_copy` as the consumer of each and a `copy` per kind of
record; `leader` lets one replica of several that share an etcd do it; `drain` removes what a removed peer left. Records are
copied as they are: who reads them validates. Nothing is removed because a peer is away, or because we stop.
"""

# SPDX-License-Identifier: Apache-2.0
"""Wanted records are kept equal in the program's own etcd.

Here: what the cluster announces about itself (`announcement`, pure), the etcd this program runs or uses (`own_store`),
and the stores, canaries, cluster config and heartbeat in it (`publisher`). Not here: who may read them (`serve`).
"""

# SPDX-License-Identifier: Apache-2.0
"""etcd, and the only place that knows it is etcd (and the only importer of grpc).

Belongs here: the client (`etcd`), its in-memory twin with faults (`memory`), list-watch-sweep (`watch`),
leases (`lease`), publishing wanted state (`sharedstore`), the peers' connection files (`clientconfig`), a managed
private etcd (`process`, `auth`) and the read-only facade peers connect to (`facade/`).
Does not belong here: what keys and values mean (meshmodel), which certificate is whose (certs), who may read what
(the apiserver decides and hands the facade a `Grant`).

Programs import it; libraries do not. Bytes go in and come out; every foreign error leaves as one of `errors`.
"""

import os

# before grpc is imported: it writes a line past our log for every handshake that a stranger breaks off
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

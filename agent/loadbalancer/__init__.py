# SPDX-License-Identifier: Apache-2.0
"""Services of the own cluster and backends of all clusters, to the service and backend maps.

`source` reads Kubernetes through `convert` (pure), `writer` holds the only verbs on the load-balancing tables, `chooser`
decides from them what a frontend leads to (`nearby`, `select` and `weights`, pure, say how), `ownership` (pure) and `addresses`
which service has an address, `ops` and `registry` write the maps in an order in which no packet meets a hole, `known` and
`follower` end what lost its address.
Nothing here knows where a peer's backends come from. Only `agent.node_agent` and `agent.mesh` import it.
"""

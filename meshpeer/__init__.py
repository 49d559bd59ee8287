# SPDX-License-Identifier: Apache-2.0
"""Following other clusters' stores: one life cycle for every program that reads them.

`directory` says which clusters are configured, `connection` makes a client of a connection file, `session` runs one attempt to
follow one store, `follower` keeps one supervised session per configured cluster and the ids they hold, `status` says how each
stands, `troubleshoot` tries a connection step by step, `trial_text` words what it found. Programs hand in a `Consumer`
(`consumer`): begin, apply, listed, drain, remove. `allowed`, `caps`, `followed`, `kinds`, `record_views`, `reservations`,
`signals`, `status`, `trial_text` and `turns` are pure.

Belongs here: what is the same for whoever follows a store. Does not: what a record means, what is done with it.
Imported by the agent (tables and maps) and the API server's mirror (copies into its own store).
Model: Cilium's pkg/clustermesh/common/remote_cluster.go.
"""

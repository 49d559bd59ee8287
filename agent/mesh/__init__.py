# SPDX-License-Identifier: Apache-2.0
"""Followed clusters' records as rows of this agent: peers', and the own cluster's by the same code (`meshpeer`).

`runner` keeps an `ingest` for each followed cluster, `ingest` turns records into rows: it is the one place that calls other
features' writers. `networks`, `held_records` and `liveness` are pure decisions. A peer is believed about itself only; what it
sends wrong is skipped, counted and shown.

Only `agent.node_agent` imports it.
"""

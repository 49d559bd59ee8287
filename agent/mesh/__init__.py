# SPDX-License-Identifier: Apache-2.0
"""Clusters whose stores this agent reads: peers from a configuration directory, and the own cluster by the same code.

`directory` says which clusters there are, `runner` keeps one supervised `session` for each, `ingest` turns a session's
records into rows: it is the one place that calls other features' writers. `networks` and `liveness` are pure decisions.
A peer is believed about itself only; what it sends wrong is skipped, counted and shown.
"""

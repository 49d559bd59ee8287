# SPDX-License-Identifier: Apache-2.0
"""Verbs of the clustermesh-agent command: they ask the agent of this node over its local REST port and print.

`verbs` parses and fetches, `render` (pure) turns answers into text. Nothing here is part of the running agent.
"""

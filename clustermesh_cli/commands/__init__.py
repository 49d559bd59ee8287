# SPDX-License-Identifier: Apache-2.0
"""One module per verb: its flags, the order of its steps, and its words. Decisions are in plan/ and mesh_health.py."""

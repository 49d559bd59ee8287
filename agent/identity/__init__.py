# SPDX-License-Identifier: Apache-2.0
"""Which labels an identity number stands for, of every cluster. Numbers are never allocated here: clusters publish them.

Only `agent.app`, `agent.status_api` and `agent.mesh.ingest` import it.
"""

# SPDX-License-Identifier: Apache-2.0
"""Which labels an identity number stands for, of every cluster. Numbers are never allocated here: clusters publish them.

Only `agent.node_agent` and `agent.mesh` import it.
"""

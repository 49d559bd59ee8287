# SPDX-License-Identifier: Apache-2.0
"""Which addresses have which DNS names: what pods were told, kept as long as it counts, for rules that name names.

`name_cache` holds the answers, `selected_names` what policies make of them; identities of the addresses are made by the
policy engine. Nothing here asks a DNS server.
Only `agent.node_agent` and `agent.kept_files` import it.
"""

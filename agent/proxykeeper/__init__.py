# SPDX-License-Identifier: Apache-2.0
"""Program 5, one per node: it starts the node's proxies, watches that they answer, and starts them again.

A pod of its own, so that connections and names outlive the agent's (ADR 55). It knows no policy and no Kubernetes: the agent
writes files (`agent.proxy_files`), and while they are there the proxies run. Belongs here: processes, their rights, whether
they answer. Not what they do. Only `agent.app` imports it.
"""

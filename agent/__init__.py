# SPDX-License-Identifier: Apache-2.0
"""The node agent: what peers and the own cluster say becomes kernel maps on this node.

Belongs here: the features (a folder each, listed in `node_agent`), the tables they meet in, and the kernel boundary
`datapath`. Does not belong here: the etcd client, certificates, record formats; those are libraries. Nothing imports this
package but its own program and tests.
"""

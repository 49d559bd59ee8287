# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy and a load balancer of layer 2 do for a lab: Services as one nft table a node, balancer addresses as routes.

`choices` says who reaches which backends, `ruleset` makes the text for nft, `announce` says which node answers for a balancer
address, `loop` applies both. Left out: session affinity, and NodePort on 127.0.0.1.
"""

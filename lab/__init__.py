# SPDX-License-Identifier: Apache-2.0
"""A whole mesh on one machine: two Kubernetes clusters, their nodes as network namespaces, their pods as processes.

Belongs here: everything that stands in for machines, kernels apart, when there is no cluster at hand.
Does not belong here: anything the product needs in production; the three programs never import `lab`.
May import: the libraries (meshkit, certs, kube, ...). It starts the programs as processes.
"""

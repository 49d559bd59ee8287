# SPDX-License-Identifier: Apache-2.0
"""A development Kubernetes: API server, controllers and a kubelet whose pods are processes.

It is one more kubeconfig and never a seam: the product's code cannot tell it from another cluster, and every test
that runs on it can be pointed at a real one. `api` holds the server and knows nothing of nodes or processes; it
reaches the kubelet through `api.runtime` only.
"""

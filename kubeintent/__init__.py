# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes objects say, read once: Service, EndpointSlice, Pod, Node, Namespace and Cilium's objects become rows.

Here: one frozen row type per kind (`rows`) and the reader of each kind (`reader`). Not here: transport (`kube`), what
is published (`clustermesh_apiserver.convert`), what is balanced (`agent.loadbalancer`). Pure. Programs import it; it
imports `meshmodel` only.
"""

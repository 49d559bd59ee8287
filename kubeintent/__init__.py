# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes objects say, read once: Service, EndpointSlice, Pod, Node, Namespace and Cilium's objects become rows.

Here: one frozen row type per kind (`rows`), one module per reader, and how a field becomes a canonical value or a
problem (`fields`, `read`). A reader takes any JSON object and returns the row beside what is wrong with the object: a
value that is not canonical is left out and named, everything else of the object counts. Not here: transport (`kube`),
what is published (`clustermesh_apiserver.convert`), what is balanced (`agent.loadbalancer`).

Pure. Programs import it; it imports `meshmodel` only.
"""

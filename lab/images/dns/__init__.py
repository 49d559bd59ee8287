# SPDX-License-Identifier: Apache-2.0
"""The lab's cluster DNS: what `coredns` does in a cluster, for the names a cluster has, on the library `dnslib`.

Belongs here: names of Services and pods to answers (`zone`, pure), the wire (`server`), the program (`__main__`).
It runs as a pod, reads Services and EndpointSlices through the API server like any other client, and forwards nothing.
"""

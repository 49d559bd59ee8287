# SPDX-License-Identifier: Apache-2.0
"""The embedded Kubernetes API server: an object store with watches, and HTTP as kubectl and client libraries speak it.

Belongs here: storage, validation, patches, watches, discovery, rendering, exec and proxy transports.
Does not belong here: controllers, scheduling, pods as processes (`lab.devkube.controllers`, `lab.devkube.kubelet`).
Entry points: `cluster.Cluster` in process, `server.ApiServer` over HTTP, `runtime.Runtime` towards the kubelet.
The package `kubernetes` is imported for its model classes only (`models`): they are the schema of the built-in kinds.

What a production server does and this one does not: authorization and admission plug-ins (who you are is checked,
what you may do is not), protobuf replies, CEL rules in custom resource definitions, snapshots across pages of a list,
field ownership of writes other than server-side apply, port-forward and attach. It keeps everything in memory,
listens on loopback unless it is handed sockets, and says "dev" in its version.
"""

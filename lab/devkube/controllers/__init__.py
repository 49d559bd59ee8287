# SPDX-License-Identifier: Apache-2.0
"""The controllers of one cluster: from what a user wrote to the pods, slices and statuses that follow from it.

Belongs here: Deployment, ReplicaSet, DaemonSet, Job, scheduling, EndpointSlices, Nodes, the root certificate's ConfigMaps.
Does not belong here: running pods (`lab.devkube.kubelet`), deleting dependents and namespaces (the API server does).
Every controller is level-triggered: it looks at all its objects whenever one of them changed, and a write that would
change nothing is no write. Left out: StatefulSets, node affinity, progress deadlines, `minReadySeconds`.
"""

# SPDX-License-Identifier: Apache-2.0
"""The kubelets of one cluster: its pods as processes of this machine, in namespaces of their own.

Belongs here: pod networks and volumes, containers, probes, restarts, exec and logs, and the pod status that follows.
Does not belong here: which pods exist (`lab.devkube.controllers`), what an image runs (`lab.images`).
One program plays every node's kubelet; each pod has one task, and a pod's trouble stays with that pod.
Left out: resource limits, CSI, init containers that run for ever, and a restart of this program under running pods.
Pods share the network among their containers; pid, uts and ipc namespaces are each container's own.
"""

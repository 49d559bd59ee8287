# SPDX-License-Identifier: Apache-2.0
"""The lab's images: what a well-known image name means on a machine that has no registry and pulls nothing.

Belongs here: the table of names (`table`), the files an image brings, and the programs it runs that are not ours to
ship elsewhere (`dns`: the cluster DNS, on a library).
Does not belong here: how a container is started (`lab.devkube.kubelet`).
"""

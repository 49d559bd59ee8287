# SPDX-License-Identifier: Apache-2.0
"""Kubernetes as our programs see it: plain dicts over one pooled connection, and a reflector per watched kind.

Belongs here: finding credentials (kubeconfig, in-cluster, exec plugins), TLS and transport, single requests, list and
watch, Kubernetes Events. Does not belong here: what an object means to the mesh (that is each program's source and
convert modules), retry policy of a program, any cache that outlives a reflector.

Package `kubernetes` is imported in `config` only, for users with an `auth-provider`: it costs 0.28 CPU s and 20 MiB.
Import `kube.client`, `kube.reflector`, `kube.resource` and so on directly; this module stays empty on purpose.
"""

# SPDX-License-Identifier: Apache-2.0
"""From Kubernetes objects to the program's tables.

Here: which kinds are read (`plan`), one kind on its way into its table (`intake`), and which records a change concerns
(`follow`). Not here: what an object means (`kubeintent`), what is published (`convert`).
"""

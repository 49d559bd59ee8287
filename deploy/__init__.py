# SPDX-License-Identifier: Apache-2.0
"""What is applied to a cluster: CRDs, RBAC and workloads, as plain YAML.

Belongs here: manifests a person can read and apply by hand. `${NAME}` marks a value that `clustermesh enable` fills in.
Does not belong here: decisions (clustermesh_cli/plan) or programs. Read by clustermesh_cli and by the lab's tests.
"""

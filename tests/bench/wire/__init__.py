# SPDX-License-Identifier: Apache-2.0
"""What the control plane costs on a real etcd with certificates and roles, beside our bare client with the same bytes.

Every measurement of ours runs in a process of its own, so that its CPU seconds and memory are its own. `run` decides what is
measured, `child` starts and ends processes, `store` is the etcd, `records` and `cluster_rows` are the data.
"""

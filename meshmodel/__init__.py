# SPDX-License-Identifier: Apache-2.0
"""WHAT clusters say to each other: names, identities, labels, annotations, the record types, every etcd key, the status schema.

Belongs here: formats that two clusters, or a program and its reader, must agree on. Pure: no I/O, no clock, no randomness.
Does not belong here: what a program does with them. May be imported by every program and by meshpolicy.
"""

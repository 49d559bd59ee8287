# SPDX-License-Identifier: Apache-2.0
"""What clusters say to each other: names, identities, labels, annotations, every record, every key, the status schema.

Belongs here: anything two clusters must agree on byte for byte, and its validation. Does not belong here: I/O, clocks,
tasks, and what a program does with a record. Pure; may be imported by everything above meshkit.
"""

# SPDX-License-Identifier: Apache-2.0
"""What programs show each other and what is installed: status and REST rows as typed structs, names of installed objects.

Pure. Belongs here: the struct behind every REST path of every program, and the names, labels and ports of what `enable`
installs. Does not belong here: how a row is made (the program that shows it), how it is served (meshkit), what clusters say to
each other (meshmodel). Every program and the lab may import it; it imports nothing of ours.
"""

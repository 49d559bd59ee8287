# SPDX-License-Identifier: Apache-2.0
"""How the program is doing, for people and for the command: health, metrics, status, the store's keys.

Here: the parts' state as one status (`program_status`), what every node's agent says (`agents`), metrics and the REST
server. Nothing here changes anything, and no other room imports it.
"""

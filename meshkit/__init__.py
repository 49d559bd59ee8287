# SPDX-License-Identifier: Apache-2.0
"""How our processes run: tables, reconcilers, supervision, time, health, logs, metrics, settings, files, HTTP.

Belongs here: what every program needs and none is about. Does not belong here: any word of the domain (cluster, peer,
service, policy). May be imported by everything; imports nothing of ours.
"""

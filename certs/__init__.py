# SPDX-License-Identifier: Apache-2.0
"""Certificates of the mesh's programs, the authorities that sign them, and the peers' authorities that are trusted.

Belongs here: what a certificate must contain, issuing, judging when to renew, deciding whose authority signed a
certificate, certificate files and Secret data, and naming what is wrong with a TLS connection.
Does not belong here: users, roles and key prefixes (the apiserver decides those from what this package tells it),
and gRPC (kvstore).

Cryptography happens in this package only. Programs import it; libraries do not. Time comes in as wall-clock seconds.
"""

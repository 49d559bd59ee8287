# SPDX-License-Identifier: Apache-2.0
"""This cluster's own certificates are renewed before they end (ADR 29).

Belongs here: when to look at the Secrets of certificates, and replacing one. Whether one is due, and what it must contain, is
decided in `certs`; programs notice new ones by themselves where they are mounted.

Only `clustermesh_apiserver.run` and `clustermesh_apiserver.apiserver` import it.
"""

# SPDX-License-Identifier: Apache-2.0
"""Requests and names through the proxies of a node, against the same without policies."""

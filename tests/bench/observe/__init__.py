# SPDX-License-Identifier: Apache-2.0
"""Flows: what keeping, searching and streaming them costs an agent."""

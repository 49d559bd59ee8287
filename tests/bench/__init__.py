# SPDX-License-Identifier: Apache-2.0
"""Figures, not tests: each suite measures in one run what it compares, and writes JSON under build/bench."""

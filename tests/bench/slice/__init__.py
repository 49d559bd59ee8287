# SPDX-License-Identifier: Apache-2.0
"""The vertical slice in figures: how fast a change reaches another cluster's kernel, and what a remote service costs."""

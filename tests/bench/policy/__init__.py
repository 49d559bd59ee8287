# SPDX-License-Identifier: Apache-2.0
"""What policies cost: compile, changes, verdicts offline."""

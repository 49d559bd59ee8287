# SPDX-License-Identifier: Apache-2.0
"""What must hold in a simulated mesh: a function each, called with the world, that says in a sentence what is wrong."""

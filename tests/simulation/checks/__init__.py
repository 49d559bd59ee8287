# SPDX-License-Identifier: Apache-2.0
"""What must hold in a simulated mesh: a function each, called with the world, that yields a sentence for each thing that is wrong."""

# SPDX-License-Identifier: Apache-2.0
"""Who does what to a simulated mesh. An actor is a function from chance and a plan to the steps it takes next; none looks at
what programs did. `mixture` says which actors there are, and how often each acts.
"""

# SPDX-License-Identifier: Apache-2.0
"""Program 3, the command people use: plan (pure), then apply; fetch, assess (pure), print.

Belongs here: what `clustermesh ...` asks of a cluster, decides and prints.
Does not belong here: anything a running cluster needs (that is in clustermesh_apiserver and agent), and the lab, which is
only started as a process. Nobody imports this package.
"""

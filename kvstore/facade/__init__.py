# SPDX-License-Identifier: Apache-2.0
"""The read-only face of our etcd that peers and agents connect to instead of etcd itself.

`grant` decides what a client may read and how much of it (pure), `server` answers calls, `connections` counts who is
connected and what it used, `stream` serves one Watch call, `watcher` one watch in it, `hub` shares one upstream watch
between all watches of a range, and `upstream` is the etcd behind all of it.
Does not belong here: which certificate gets which grant (the apiserver decides), what keys mean (meshmodel).
"""

# SPDX-License-Identifier: Apache-2.0
"""The page: what it is told (flows as rows, nodes, services), its files, and how a browser is to treat them.

Belongs here: the rows of flows (`flow_rows`), what a reader asks for (`wish`), why a flow was decided so (`why`), the stream
of events (`feed`), the files of the browser (`static`). `vendor` has libraries of others with their licences.
Does not belong here: where flows come from (`relay.view` has all that is asked). Only `relay` imports it.
"""

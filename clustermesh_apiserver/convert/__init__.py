# SPDX-License-Identifier: Apache-2.0
"""From rows to records: one whole record, or none.

Here: one pure converter per kind of record, who speaks for a key that several objects claim (`owner_queue`, pure), and
the exporters, which know the rows that must be converted again (`exporter`, `address_exporter`, `exporter_set`,
`assembly`). Not here: reading objects, writing to etcd.
"""

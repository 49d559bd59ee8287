# SPDX-License-Identifier: Apache-2.0
"""Who may read what we publish: certificates, trusted authorities and users decide; the read-only facade obeys.

Here: the users file (`users`, pure), the decision (`access`, pure), and the facade with the files it follows
(`facade_server`). Not here: the facade's protocol (`kvstore`), what is published (`publish`).
"""

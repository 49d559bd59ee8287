# SPDX-License-Identifier: Apache-2.0
"""etcd's messages, generated from the trimmed .proto files by generate.sh; nothing here is written by hand (NOTICE)."""

# SPDX-License-Identifier: Apache-2.0
"""Messages of Hubble's API, generated from trimmed .proto files; see NOTICE and generate.sh."""

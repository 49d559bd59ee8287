# SPDX-License-Identifier: Apache-2.0
"""What the command costs whoever types it: CPU seconds of whole processes, interpreter included."""

# SPDX-License-Identifier: Apache-2.0
"""What a command is going to do, decided from facts and without I/O, so that every refusal can be tested as a value. Pure."""

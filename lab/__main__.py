# SPDX-License-Identifier: Apache-2.0
"""`python -m lab`."""

from lab.app import main

main()

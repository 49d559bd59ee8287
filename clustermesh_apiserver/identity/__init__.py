# SPDX-License-Identifier: Apache-2.0
"""Identities where Cilium does not make them: one CiliumIdentity object per label set.

Here: which number stands for which labels (`number_choice`, pure), and the objects that say so (`allocator`).
"""

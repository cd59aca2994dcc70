# SPDX-License-Identifier: Apache-2.0
"""``memkv doctor``: will RDMA work from this host, and if not, what mends it?"""

# SPDX-License-Identifier: Apache-2.0
"""Measures MemKV on this machine beside the raw limit of its loopback."""

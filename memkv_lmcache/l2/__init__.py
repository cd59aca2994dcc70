# SPDX-License-Identifier: Apache-2.0
"""The parts of the L2 adapter.  They know LMCache's objects by their attributes."""

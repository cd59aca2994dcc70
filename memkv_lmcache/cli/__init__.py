# SPDX-License-Identifier: Apache-2.0
"""The command ``memkv``: one file a command, and what they share."""

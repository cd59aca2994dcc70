# SPDX-License-Identifier: Apache-2.0
"""The server's host: its configuration, its threads and the signals that end it."""

# SPDX-License-Identifier: Apache-2.0
"""``python -m memkv_lmcache`` is the command ``memkv``."""

from __future__ import annotations

import sys

from memkv_lmcache.cli.main import main

sys.exit(main())

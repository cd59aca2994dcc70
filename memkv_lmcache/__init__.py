# SPDX-License-Identifier: Apache-2.0
"""MemKV: a context-memory store for LLM inference, for LMCache and vLLM.

The public class is :class:`Client`.  Importing the package loads neither torch nor
lmcache; only its plugin does.
"""

from __future__ import annotations

from memkv_lmcache.client import Client

__all__ = ["Client"]

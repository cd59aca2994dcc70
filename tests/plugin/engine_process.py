"""An engine in a process of its own: stores a prompt, or finds and compares it.

Arguments: ``store`` or ``load``, LMCache's yaml, and ``random`` for hashes as vLLM
gives them to a process without PYTHONHASHSEED.
"""

from __future__ import annotations

import json
import secrets
import sys
import time

import torch
from lmcache.v1 import token_database
from lmcache.v1.config import LMCacheEngineConfig

from memkv_lmcache.demo.engine import ModelShape, build_engine
from memkv_lmcache.processes import report_to

TOKENS = list(range(70))
MODEL = ModelShape(name="org/model")


def randomize_hashes() -> None:
    """What LMCache takes from vLLM where no seed is set."""
    init = token_database.TokenDatabase.__init__

    def patched(self: object, *args: object, **kwargs: object) -> None:
        init(self, *args, **kwargs)
        token_database.NONE_HASH = secrets.randbits(63)

    token_database.TokenDatabase.__init__ = patched


def main() -> None:
    """Does what the arguments say, reports once, and waits to be killed."""
    report = report_to()
    if "random" in sys.argv:
        randomize_hashes()
    config = LMCacheEngineConfig.from_file(sys.argv[2])
    engine = build_engine("one", config, MODEL)
    plugin = engine.storage_manager.storage_backends["memkv"]
    generator = torch.Generator().manual_seed(1)
    kv = torch.randn(MODEL.kv(len(TOKENS)), generator=generator).to(MODEL.dtype)
    if sys.argv[1] == "store":
        engine.store(TOKENS, kv=kv)
        plugin._puts.wait_idle(60)
        said = plugin.counters.snapshot()
    else:
        back = torch.zeros_like(kv)
        hit = engine.lookup(TOKENS)
        mask = engine.retrieve(TOKENS, kv=back)
        said = {
            "hit": hit,
            "retrieved": int(mask.sum()),
            "same": torch.equal(back[:, :, mask], kv[:, :, mask]),
        }
    report.write(json.dumps(said) + "\n")
    report.flush()
    time.sleep(600)


main()

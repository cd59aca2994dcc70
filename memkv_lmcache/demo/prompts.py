# SPDX-License-Identifier: Apache-2.0
"""The demo's workers for ``memkv demo``: a real LMCache engine with our plugin.

One computes the KV cache of a prompt with a small random Llama and stores it; the other
starts with an empty cache, is given the prompt only, and retrieves.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lmcache.v1.cache_engine import LMCacheEngineBuilder

from memkv_lmcache.arena import arena_of
from memkv_lmcache.demo.engine import ModelShape, build_engine, engine_config
from memkv_lmcache.errors import Status, error_for
from memkv_lmcache.processes import report_to
from memkv_lmcache.ways import answer_of, moved, standing, wait_for_rdma

MODEL = ModelShape(
    "memkv-demo", layers=8, kv_heads=4, head_size=64, dtype=torch.float32
)
VOCABULARY, HEADS, HIDDEN, INNER = 4096, 8, 512, 1536
INSTANCE = "memkv-demo"
REFERENCE = "kv.bin"
#: A busy machine is no reason for a miss here, as it would be in an engine that waits.
PATIENT = {"lookup_timeout_ms": 5_000}
DRAIN_S, POLL_S = 30.0, 0.001


def main() -> None:
    """``store CHUNKS CHUNK_SIZE`` then waits to be killed; ``load`` likewise ends."""
    report = report_to()
    role, chunks, chunk_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    tokens = random.Random(0).choices(  # noqa: S311 not a secret
        range(VOCABULARY), k=chunks * chunk_size
    )
    size = MODEL.kv(len(tokens)).numel() * MODEL.dtype.itemsize
    arena_gib = max(0.25, 2 * size / 1024**3)
    config = engine_config(chunk_size, arena_gib, dict(PATIENT))
    engine = build_engine(INSTANCE, config, MODEL)
    work = _store if role == "store" else _load

    def run() -> dict[str, float]:
        client = _plugin(engine).client
        wait_for_rdma(client, _arena_size(engine))
        return work(engine, tokens, chunk_size) | moved(client)

    print(json.dumps(answer_of(run)), file=report, flush=True)
    if role == "store":
        signal.pause()
    LMCacheEngineBuilder.destroy(INSTANCE)


def _plugin(engine: Any) -> Any:
    """Ours, which LMCache made."""
    return engine.storage_manager.storage_backends["memkv"]


def _arena_size(engine: Any) -> int:
    """Bytes of the memory that the plugin registers."""
    arena = arena_of(engine.storage_manager.allocator_backend.memory_allocator)
    return 0 if arena is None else len(arena)


def _store(engine: Any, tokens: list[int], chunk_size: int) -> dict[str, float]:
    kv, prefill_s = _prefill(tokens)
    _bytes_of(kv).tofile(REFERENCE)
    chunks = len(tokens) // chunk_size
    plugin = _plugin(engine)
    begin = time.perf_counter()
    engine.store(tokens, kv=kv)
    deadline = begin + DRAIN_S
    # puts go on behind the engine's back
    while plugin.counters.snapshot().get("put_stored", 0) < chunks:
        if time.perf_counter() > deadline:
            text = f"not stored within {DRAIN_S:g} s; {standing(plugin.client)}"
            raise error_for(Status.TIMEOUT, text)
        time.sleep(POLL_S)
    put_s = time.perf_counter() - begin
    size = kv.numel() * kv.element_size()
    return {"chunks": chunks, "bytes": size, "put_s": put_s, "prefill_s": prefill_s}


def _load(engine: Any, tokens: list[int], chunk_size: int) -> dict[str, float]:
    kv = torch.zeros(MODEL.kv(len(tokens)), dtype=MODEL.dtype)
    begin = time.perf_counter()
    found = engine.lookup(tokens)
    looked = time.perf_counter()
    mask = engine.retrieve(tokens, kv=kv)
    get_s = time.perf_counter() - looked
    loaded = int(mask.sum())
    reference = Path(REFERENCE).read_bytes()
    chunks = min(found, loaded) // chunk_size
    return {
        "chunks": chunks,
        "bytes": loaded * kv.numel() * kv.element_size() // len(tokens),
        "lookup_s": looked - begin,
        "get_s": get_s,
        "right": chunks if _bytes_of(kv).tobytes() == reference else 0,
    }


def _prefill(tokens: list[int]) -> tuple[torch.Tensor, float]:
    """The KV cache of the prompt, [2, layers, tokens, width], and what it took."""
    # slow, and nothing that a warm start needs
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=MODEL.layers,
            num_attention_heads=HEADS,
            num_key_value_heads=MODEL.kv_heads,
            head_dim=MODEL.head_size,
            max_position_embeddings=len(tokens),
        )
    )
    model.eval()
    prompt = torch.tensor([tokens])
    with torch.inference_mode():
        # the first pass of a process is slower, and would flatter us
        model(prompt[:, : min(64, len(tokens))], use_cache=True, logits_to_keep=1)
        begin = time.perf_counter()
        output = model(prompt, use_cache=True, logits_to_keep=1)
        seconds = time.perf_counter() - begin
        layers = output.past_key_values.layers
        pairs = [
            [layer.keys[0] for layer in layers],
            [layer.values[0] for layer in layers],
        ]
        # each [heads, tokens, size]: LMCache keeps a token's heads side by side
        kv = torch.stack([torch.stack(one) for one in pairs]).transpose(2, 3).flatten(3)
    return kv.contiguous().clone(), seconds


def _bytes_of(kv: torch.Tensor) -> Any:
    return kv.contiguous().view(torch.uint8).numpy()


if __name__ == "__main__":
    main()

"""Writes a small Llama with random weights into a folder: the only argument.

vLLM's own dummy weights are so small that all tokens are about equally likely, whatever
the KV cache holds.  These make every layer matter.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD = 4, 256, 8, 4, 32
VOCABULARY = 128
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def weights() -> dict[str, torch.Tensor]:
    """The same in each call."""
    generator = torch.Generator().manual_seed(1)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> torch.Tensor:
        scale = gain / columns**0.5
        return torch.randn(rows, columns, generator=generator) * scale

    found = {
        "model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN, HIDDEN**0.5),
        "model.norm.weight": torch.ones(HIDDEN),
        "lm_head.weight": matrix(VOCABULARY, HIDDEN, 2.0),
    }
    for layer in range(LAYERS):
        attention = {
            # attention that looks at few tokens, far away ones included
            "q_proj": matrix(HEADS * HEAD, HIDDEN, 2.0),
            "k_proj": matrix(KV_HEADS * HEAD, HIDDEN, 2.0),
            "v_proj": matrix(KV_HEADS * HEAD, HIDDEN),
            "o_proj": matrix(HIDDEN, HEADS * HEAD, 2.0),
        }
        mlp = {
            "gate_proj": matrix(2 * HIDDEN, HIDDEN),
            "up_proj": matrix(2 * HIDDEN, HIDDEN),
            "down_proj": matrix(HIDDEN, 2 * HIDDEN),
        }
        prefix = f"model.layers.{layer}"
        for name, weight in attention.items():
            found[f"{prefix}.self_attn.{name}.weight"] = weight
        for name, weight in mlp.items():
            found[f"{prefix}.mlp.{name}.weight"] = weight
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}.{name}.weight"] = torch.ones(HIDDEN)
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    save_file(weights(), folder / "model.safetensors", {"format": "pt"})

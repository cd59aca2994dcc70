"""vLLM in a process of its own.  Its argument: settings of ``vllm.LLM`` as JSON.

Each line on stdin is a JSON list of prompts, each a list of tokens, that are requested
together; the answer is a JSON object on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from vllm import LLM, SamplingParams

from memkv_lmcache.processes import report_to

TOKENS = 8


def answer(output: Any) -> dict[str, Any]:
    """What vLLM says about one request; the logprobs are those of all tokens."""
    [choice] = output.outputs
    vocabulary = range(len(choice.logprobs[0])) if choice.logprobs else ()
    return {
        "tokens": list(choice.token_ids),
        "logprobs": [
            [step[token].logprob for token in vocabulary] for step in choice.logprobs
        ],
        "cached": output.num_cached_tokens,
        "finished": choice.finish_reason,
    }


def main() -> None:
    """Says that it is ready, and answers until it is killed."""
    report = report_to()

    def say(**what: Any) -> None:
        report.write(json.dumps(what) + "\n")
        report.flush()

    llm = LLM(**json.loads(sys.argv[1]))
    sampling = SamplingParams(
        temperature=0.0,
        max_tokens=TOKENS,
        ignore_eos=True,
        detokenize=False,
        logprobs=llm.model_config.get_vocab_size(),
    )
    say(ready=True)
    for line in sys.stdin:
        prompts = [{"prompt_token_ids": prompt} for prompt in json.loads(line)]
        begin = time.monotonic()
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        say(
            seconds=time.monotonic() - begin,
            answers=[answer(output) for output in outputs],
        )


if __name__ == "__main__":  # vLLM starts processes that import this module
    main()

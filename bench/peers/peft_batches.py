"""PEFT's mixed batches: a trace in static batches through `generate(adapter_names=...)`, without HTTP.

A process that is told a world and then, line by line, jobs; it answers each with the replies, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.load.trace import Request, read_trace


class Peft:
    """The base of a world in bf16 with the first adapters on it."""

    def __init__(self, base: Path, adapters: Sequence[Path]) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        self._model = PeftModel.from_pretrained(model, adapters[0], adapter_name=adapters[0].name, autocast_adapter_dtype=False)
        for adapter in adapters[1:]:
            self._model.load_adapter(adapter, adapter_name=adapter.name, autocast_adapter_dtype=False)
        self._model.eval()

    def generate(self, requests: Sequence[Request]) -> list[list[str]]:
        """The texts of the new tokens of each request, all in one batch of greedy continuations."""
        import torch

        length = max(len(request.prompt) for request in requests)
        padding = [length - len(request.prompt) for request in requests]
        ids = torch.tensor([[0] * pad + list(request.prompt) for pad, request in zip(padding, requests, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (length - pad) for pad in padding])
        tokens, names = requests[0].tokens, [request.adapter or "__base__" for request in requests]
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids, attention_mask=mask, adapter_names=names, do_sample=False, pad_token_id=0,
                max_new_tokens=tokens, min_new_tokens=tokens,
            )  # fmt: skip
        return [[self._tokenizer.decode([token]) for token in row[length:].tolist()] for row in out]


def replay(peft: Peft, trace: Sequence[Request], batch: int, seconds: float) -> Iterator[dict[str, Any]]:
    """The replies to `trace`, a whole batch at a time, until `seconds` have passed; the last batch is finished."""
    began = time.perf_counter()
    for requests in batches(trace, batch):
        sent = time.perf_counter() - began
        texts = peft.generate(requests)
        seen = time.perf_counter() - began
        for text in texts:
            yield {"sent": sent, "seen": [seen] * len(text), "pieces": text}
        if seen > seconds:
            return


def batches(trace: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    return (trace[begin : begin + size] for begin in range(0, len(trace), size))


def main(base: str, *adapters: str) -> None:
    peft = Peft(Path(base), [Path(adapter) for adapter in adapters])
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        replies = list(replay(peft, read_trace(Path(job["trace"])), job["batch"], job["seconds"]))
        print(json.dumps(replies), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

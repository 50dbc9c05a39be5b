"""What every type of GGUF costs in quality: a real model with a trained adapter, in real llama.cpp. `make quality`.

The model is SmolLM2-135M-Instruct, the adapter the demo's lighthouse keeper, trained for it here; another one is taken
from the folder that is given. The perplexity is that of its held-out questions and answers, the rest is what a
verification finds. The first lines are transformers and PEFT in float32.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from adreg.export.changes.source import Source
from adreg.export.gguf.types import QUANTS
from adreg.export.plan import plan_merge
from adreg.export.proof.llamacpp import llamacpp
from adreg.export.proof.reference import Passage, Reference, open_reference
from adreg.export.proof.verify import verify_merge
from adreg.export.request import MergeRequest
from adreg.export.run import run_merge
from adreg.formats.adapters.adapter import open_adapter
from adreg.formats.bases.checkpoint import open_checkpoint
from bench.spine import header, unpack

EXAMPLES = Path(__file__).parents[1] / "examples"
TOKENS = 1024


def main() -> None:
    print(header())
    with TemporaryDirectory() as place:
        base = unpack(Path(place))
        adapter = Path(sys.argv[1]) if len(sys.argv) > 1 else train(base, Path(place) / "adapter")
        reference = open_reference(open_checkpoint(base), (Source(open_adapter(adapter)),))
        passage = held_out(reference)
        adapted, bare = reference.log_probabilities([passage])
        tokens = [passage.ids[length] for length in passage.lengths]
        print(f"perplexity of {len(tokens)} tokens; |delta| of log probabilities and mean divergence in nats")
        print(f"{'':24}{'size':>9}{'perplexity':>12}{'max':>9}{'mean':>9}{'KL':>9}{'top 1':>8}{'effect':>8}")
        for name, rows in (("the base in float32", bare), ("the adapter on it", adapted)):
            print(f"{name:24}{'':9}{perplexity(row[token] for row, token in zip(rows, tokens, strict=True)):12.3f}")
        for quant in QUANTS:
            print(
                measured(
                    reference,
                    passage,
                    MergeRequest(reference.base, reference.sources, "gguf", Path(place) / f"{quant}.gguf", quant),
                )
            )


def train(base: Path, folder: Path) -> Path:
    """The demo's first adapter on `base`, in `folder`."""
    words = ["--base", str(base), "--recipe", "demo", "--data", str(EXAMPLES / "lighthouse.jsonl"), "--out", str(folder)]
    environment = os.environ | {"ADREG_HOME": str(folder.with_name("home"))}
    subprocess.run(
        [sys.executable, "-m", "adreg", "train", *words, "--quiet"], check=True, capture_output=True, env=environment
    )
    return folder


def held_out(reference: Reference) -> Passage:
    """The first TOKENS tokens of the held-out questions and answers."""
    rows = map(json.loads, (EXAMPLES / "lighthouse.heldout.jsonl").read_text(encoding="utf-8").splitlines())
    text = "\n".join(turn["content"] for row in rows for turn in row["messages"])
    return Passage(tuple(reference.tokenize(text, add_special=True, parse_special=False)[:TOKENS]))


def measured(reference: Reference, passage: Passage, request: MergeRequest) -> str:
    """The line of the table for what `request` gives; the file is removed again."""
    plan = plan_merge(request)
    size = run_merge(plan).main.size
    found = verify_merge(plan, plan.path)
    with llamacpp(plan.path, 2 * TOKENS) as model:
        ids = passage.ids
        surprise = perplexity(model.log_probability(ids[:length], ids[length]) for length in passage.lengths)
    plan.path.unlink()
    deltas = f"{found.max_delta_logprob:9.4f}{found.mean_delta_logprob:9.4f}{found.mean_divergence:9.5f}"
    shares = f"{found.top1_agreement:8.0%}{found.adapter_effect or 0:8.2f}"
    verdict = "" if found.passed else f"   rejected: {'; '.join(found.failures)}"
    return f"{request.quant:24}{size / 1e6:6.0f} MB{surprise:12.3f}{deltas}{shares}{verdict}"


def perplexity(log_probabilities: Iterable[float]) -> float:
    values = [float(value) for value in log_probabilities]
    return math.exp(-sum(values) / len(values))


if __name__ == "__main__":
    main()

"""llama.cpp on the command line, step by step: the GGUF files that it needs, made by `export`, and the first process."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from adreg import __version__
from adreg.cli.merging import Target, Wish, base_of, carry_out, merge_request
from adreg.cli.output import Output
from adreg.cli.progress import progress
from adreg.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from adreg.registry.records import BaseRecord, VersionRecord
    from adreg.registry.registry import Registry
    from adreg.serve.engines.llamacpp.roster import Pauses, Roster
    from adreg.serve.models.offer import Offer

FOLDER, DEFAULT_QUANT, MOST_CONTEXT = "gguf", "q8_0", 4096


@dataclass(frozen=True)
class LlamaWish:
    """What the user asked for. `program` None: a llama-server on PATH, or else xllamacpp's. `quant` None: q8_0, as for Ollama:
    half of f16's bytes to read for each token, and the least that is lost of all smaller types."""

    program: Path | None = None
    quant: str | None = None
    context: int | None = None
    threads: int | None = None
    running: int = 32
    limit: int = 16
    invariant: bool = False
    verify: bool | None = None


def open_llamacpp(
    found: Registry, offer: Offer, wish: LlamaWish, out: Output, over: Callable[[], None], pauses: Pauses | None = None
) -> Roster:
    """llama.cpp on the base of `offer` with its first adapters, ready for requests. Whoever gets it closes it; `over` is
    called from another thread when it has died for good."""
    from adreg.formats.gguf.header import read_gguf
    from adreg.serve.engines.llamacpp.files import LoraFiles
    from adreg.serve.engines.llamacpp.first import first_loras
    from adreg.serve.engines.llamacpp.process import LlamaCpp
    from adreg.serve.engines.llamacpp.recipe import find_server
    from adreg.serve.engines.llamacpp.roster import Pauses, Roster
    from adreg.serve.models.defaults import sampling_defaults
    from adreg.serve.models.verified import VerifiedAdapters

    server, record = find_server(wish.program), offer.base
    checkpoint = found.bases.unchanged(record, progress(out.human))
    folder = folder_of(found, record)
    model = model_file(found, record, folder, wish, out)
    files = LoraFiles(folder, model, checkpoint.tokenizer, VerifiedAdapters(offer), partial(_export_lora, offer))
    fields = read_gguf(model).fields
    llama = LlamaCpp(
        server=server,
        model=model,
        alias=record.name,
        context=wish.context or min(MOST_CONTEXT, int(fields[f"{fields['general.architecture']}.context_length"])),
        running=wish.running,
        threads=wish.threads or len(os.sched_getaffinity(0)),
        invariant=wish.invariant,
        log=found.settings.home / "logs" / f"llamacpp-{os.getpid()}.log",
        defaults=sampling_defaults(checkpoint.folder),
        vocabulary=len(fields["tokenizer.ggml.tokens"]),
    )
    roster = Roster(llama.start, files, wish.limit, over, pauses or Pauses())
    roster.begin(first_loras(files, wish.limit))
    return roster


def folder_of(found: Registry, record: BaseRecord) -> Path:
    """Where the GGUF files of the base `record` and of its adapters are kept: one place for each content and each adreg."""
    said = json.dumps([__version__, vars(record.card.ids)], sort_keys=True)
    return found.settings.home / FOLDER / f"{record.name.replace('/', '-')}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def model_file(found: Registry, record: BaseRecord, folder: Path, wish: LlamaWish, out: Output) -> Path:
    """The base as a GGUF file: itself if it is one, else exported once, proven where that can be done, and kept."""
    from adreg.export.plan import plan_merge
    from adreg.serve.engines.llamacpp.files import kept

    if record.card.container == "gguf":
        if wish.quant is not None:
            raise UsageError(f"{record.name} is a GGUF file and has its type already", "leave out --quant")
        return record.folder
    chosen = wish.quant or DEFAULT_QUANT

    def make(path: Path) -> None:
        out.note(f"making {path.name} of {record.name}, once")
        carry_out(plan_merge(merge_request(found, record, [], Wish(path, Target.GGUF, chosen, verify=wish.verify), out)), out)
        path.with_suffix(".Modelfile").unlink(missing_ok=True)

    return kept(folder / f"base-{chosen}.gguf", make)


def _export_lora(offer: Offer, digest: str, path: Path) -> None:
    """Write the adapter as a GGUF LoRA. Any thread may call. Not compared with the adapter: its A and B are what it holds."""
    from adreg.export.plan import plan_merge
    from adreg.export.run import run_merge

    found, version = offer.registry, offer.by_digest(digest)
    wish = Wish(path, Target.GGUF_LORA, verify=False)
    run_merge(plan_merge(merge_request(found, _checkpoint_of(offer, version), [(version, 1.0)], wish, Output(quiet=True))))


def _checkpoint_of(offer: Offer, version: VersionRecord) -> BaseRecord:
    """The base whose tensors say how the adapter's are stored: for a GGUF file, the checkpoint that it was made from."""
    record = offer.base if offer.base.card.container != "gguf" else base_of(offer.registry, [version])
    if record.card.container == "gguf":
        why = f"a GGUF adapter of {version.reference}, which was trained on {record.name}, a GGUF file,"
        raise UnsupportedError(why, "register the checkpoint that it was made from: adreg base add FOLDER")
    return record

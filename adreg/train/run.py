"""One training, from a request to an adapter folder and its record. Knows the order of things, not how they are done."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adreg.errors import ConflictError, MissingExtra, UsageError
from adreg.formats.adapters.adapter import WEIGHTS
from adreg.formats.atomic import atomic_folder
from adreg.formats.bases.checkpoint import Checkpoint as Base
from adreg.formats.digests import file_sha256
from adreg.progress import SILENT, Progress
from adreg.settings import Settings
from adreg.train.assembly import assemble
from adreg.train.config import TrainConfig
from adreg.train.data.prepare import Prepared, prepare
from adreg.train.launch.member import tell_ready
from adreg.train.loop.checkpoint import prune
from adreg.train.loop.identity import identity
from adreg.train.loop.job import Course, Job
from adreg.train.loop.plan import lengths_of, plan_steps
from adreg.train.loop.tracking import check_trackers
from adreg.train.loop.world import in_turn, is_first, processes, spread
from adreg.train.model.bases import remote_code_sha256
from adreg.train.model.checks import checked_base
from adreg.train.record import environment
from adreg.train.record.folder import write_record
from adreg.train.record.interview import Interview
from adreg.train.record.opening import opening_record
from adreg.train.record.output import write_adapter, write_tokenizer
from adreg.train.record.record import HeldOut, RunRecord
from adreg.train.record.recorder import NoRecorder, Recorder
from adreg.train.record.telling import Telling
from adreg.train.resume import check_state, resumed


@dataclass(frozen=True)
class TrainRequest:
    """What to train: `base_ids` are the ids of the base's card, written to the record as they are.

    `run_folder` is where checkpoints go while it runs; None keeps none. `resume_from` is a run's folder, or one checkpoint in
    it, to go on from; `force` does so although data, base or settings changed. `parent` is the folder of the adapter whose
    training is continued. `record` is what is known of the run already: its id, recipe, parent, or how it began when it is
    resumed.
    """

    base_folder: Path
    base_name: str
    base_ids: Mapping[str, str | None]
    config: TrainConfig
    output: Path
    run_folder: Path | None = None
    resume_from: Path | None = None
    force: bool = False
    parent: Path | None = None
    record: RunRecord | None = None


@dataclass(frozen=True)
class TrainResult:
    """The adapter's folder and the record that lies in it as adreg.json."""

    folder: Path
    record: RunRecord


def train(request: TrainRequest, progress: Progress = SILENT, recorder: Recorder | None = None) -> TrainResult:
    """Train an adapter and write it to `request.output`, whole or not at all.

    Raises `UsageError`, `DataError` or `ConflictError` before the model is loaded where the request cannot be met, `Diverged`
    when a loss stops being a number, and `Interrupted` after a signal. However it ends, `recorder` is told.
    """
    record = request.record or opening_record({"name": request.base_name, **request.base_ids}, request.config)
    telling = Telling(record, recorder if recorder and is_first() else NoRecorder())
    with telling.to_the_end():
        check_request(request)
        base = checked_base(request.base_folder, request.base_name, request.config, request.parent)
        if code := remote_code_sha256(base, request.config):
            telling.know(base={**telling.record.base, "remote_code_sha256": code})
        with in_turn(Settings.from_environment().home):  # the first makes the token cache, the others read it
            data = prepare(base, request.config.data, request.config.train.seed, request.config.objective)
        steps = plan_steps(data.train, request.config.train).steps
        telling.know(data=[asdict(report) for report in data.reports], rows=len(data.train), planned_steps=steps)
        _check_evaluation(request.config, data)
        own = identity(request.base_ids, request.config, [report.sha256 for report in data.reports])
        world = {"processes": processes(), "spread": spread()}
        resume = resumed(request, own, world, base, telling)
        tell_ready(telling.record.id)
        job = Job(
            run_id=telling.record.id,
            eval=request.config.eval,
            save=request.config.save,
            track=request.config.track,
            folder=request.run_folder,
            origin={"identity": own, **world},
            resume=resume,
            recorder=telling.recorder,
            progress=progress if is_first() else SILENT,
            warn=telling.warn,
        )
        _run(request, base, data, job, telling)
    return TrainResult(request.output, telling.record)


def _run(request: TrainRequest, base: Base, data: Prepared, job: Job, telling: Telling) -> None:
    from adreg.train.loop.trainer import run_loop
    from adreg.train.model.load import parameter_groups, trainable_parameters

    config = request.config
    made = assemble(request.base_folder, config, data, request.parent, job.progress)
    model = made.model
    total = sum(parameter.numel() for parameter in model.parameters())
    twice = _computes_twice(config, base, data, model)
    several = {"processes": processes(), "spread": spread()} if processes() > 1 else {}
    settings = environment.machine(**environment.devices(), **made.taken, checkpointing=twice, **several)
    telling.know(platform=settings, trainable=trainable_parameters(model), total=total)
    interview = Interview(config, data, telling)
    interview.before(model)
    groups = parameter_groups(model, config)
    job = replace(job, held_out=made.held_out, groups=groups, budget=made.budget, checkpointing=twice)
    course = run_loop(model, made.objective, made.rows, config.train, job)
    interview.after(model)
    _write(request, data, model, course, len(made.held_out), telling)


def _computes_twice(config: TrainConfig, base: Base, data: Prepared, model: Any) -> bool:
    """Whether activations are computed twice: as set, or where they would not fit into the memory that is left."""
    from adreg.train.steps.memory import activation_bytes

    if config.train.checkpointing != "auto" or config.method == "prefix":
        return config.train.checkpointing == "on"
    longest, left = max(lengths_of(data.train)), environment.available_memory()
    most = max(config.train.micro_tokens, longest)
    return left is not None and activation_bytes(base.config, most, longest, model.dtype.itemsize) > left


def _write(request: TrainRequest, data: Prepared, model: Any, course: Course, held_out: int, telling: Telling) -> None:
    """The adapter's folder with the record in it, whole or not at all; a finished run needs no checkpoints."""
    from adreg.train.loop.state import gathered

    spread = gathered(model)
    if not is_first():
        return
    with atomic_folder(request.output) as folder:
        write_adapter(folder, model, request.base_name, data.tokenizer, spread)
        weights = file_sha256(folder / WEIGHTS)
        if request.config.lora.new_tokens:
            write_tokenizer(folder, data.tokenizer)
        record = telling.end(
            course.stopped,
            weights=f"sha256:{weights}",
            steps=course.step,
            tokens=course.tokens,
            trained_tokens=course.learned,
            losses=course.losses,
            evaluations=course.evaluations,
            eval=HeldOut(held_out, *course.held_out()),
        )
        write_record(folder, record, request.base_name)
    if request.run_folder:
        prune(request.run_folder, 0)
        with suppress(OSError):  # trackers may have written there
            request.run_folder.rmdir()


def check_request(request: TrainRequest, output: bool = True) -> None:
    """Raise what can be known without reading data: a package that is missing, or with `output` a folder that is taken."""
    _require("torch", "transformers", "peft", "accelerate")
    check_trackers(request.config.track, request.run_folder)
    check_state(request)
    taken = output and request.output.exists() and (not request.output.is_dir() or any(request.output.iterdir()))
    if taken:
        raise ConflictError(f"{request.output} already exists", "choose another folder with --out")


def _check_evaluation(config: TrainConfig, data: Prepared) -> None:
    stop, every = config.eval.early_stop, config.eval.every
    if stop and every is None:
        raise UsageError("eval.early_stop needs looks to count", "set eval.every to a number of steps, or to epoch")
    if (stop or every) and not len(data.held_out):
        raise UsageError("eval needs held-out rows, and there are none", "set data.eval to a share such as 0.05, or to a file")


def _require(*packages: str) -> None:
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(package, "train")

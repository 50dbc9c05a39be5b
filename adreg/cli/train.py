"""`adreg train`: from data to an adapter folder, recorded and, if asked, pushed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from adreg.cli.common import BaseOption, Json, Quiet
from adreg.cli.output import Output
from adreg.cli.recipes import complete_recipe

NEWEST = "newest"


class TrainCommand(TyperCommand):
    """Lets `--resume` stand alone: it means the newest run that can go on."""

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        alone = [
            word == "--resume" and following.startswith("-") for word, following in zip(words, [*words[1:], "-"], strict=True)
        ]
        return super().parse_args(
            context, [f"--resume={NEWEST}" if bare else word for word, bare in zip(words, alone, strict=True)]
        )


COMMAND_CLASSES = {"train": TrainCommand}

ConfigFile = Annotated[Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="Settings; --set goes over them.")]
Recipe = Annotated[
    str | None, typer.Option("--recipe", "-r", help="A recipe from `adreg recipes ls`.", autocompletion=complete_recipe)
]
Data = Annotated[list[str] | None, typer.Option("--data", "-d", metavar="FILE", help="Training file; - is standard input.")]
Eval = Annotated[list[str] | None, typer.Option("--eval", metavar="FILE", help="Held-out file; else a share of the data.")]
Map = Annotated[list[str] | None, typer.Option("--map", metavar="ROLE=COLUMN", help="A column, such as answer=answer_zh.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="One setting, such as lora.r=16.")]
Method = Annotated[str | None, typer.Option("--method", help="lora, ia3, loha, lokr, prefix, p-tuning or prompt.")]
ParentOption = Annotated[str | None, typer.Option("--parent", metavar="REF", help="An adapter whose training goes on.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="A new folder for the adapter.")]
Push = Annotated[str | None, typer.Option("--push", metavar="NAME[:ALIAS]", help="Push the adapter when it is done.")]
Resume = Annotated[
    str | None, typer.Option("--resume", metavar="[RUN]", help="Go on with a run that was stopped: the newest, or RUN.")
]
Force = Annotated[bool, typer.Option("--force", help="Resume although data, base or settings changed; it is recorded.")]
MaxSteps = Annotated[int | None, typer.Option("--max-steps", min=1, help="Stop after so many optimizer steps.")]
Devices = Annotated[
    int | None,
    typer.Option("--devices", metavar="N", min=1, help="Train in N processes: a GPU each, or CPUs alone."),
]
Accelerate = Annotated[
    str | None, typer.Option("--accelerate", metavar="CONFIG", help="ddp, fsdp2, zero2, zero3, or accelerate's own YAML file.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Say what would be trained, how long, in how much memory; train nothing.")
]
NoProbe = Annotated[bool, typer.Option("--no-probe", help="With --dry-run: load no model, and estimate no time.")]


def train(
    config: ConfigFile = None,
    recipe: Recipe = None,
    base: BaseOption = None,
    data: Data = None,
    eval_: Eval = None,
    mapped: Map = None,
    sets: Sets = None,
    method: Method = None,
    parent: ParentOption = None,
    out_folder: Out = None,
    push: Push = None,
    resume: Resume = None,
    force: Force = False,
    max_steps: MaxSteps = None,
    devices: Devices = None,
    accelerate: Accelerate = None,
    dry_run: DryRun = False,
    no_probe: NoProbe = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train an adapter. Only answers and their stop token are trained; the run is recorded from its first second.

    Example: adreg train --base smollm2 --data rows.jsonl --set train.epochs=4 --push voice:dev
    """
    from adreg.cli.trainjob import Wishes, carry_out, dry
    from adreg.cli.traintogether import launch_options, reads_stdin, train_together
    from adreg.train.launch.member import end_with_starter, is_started

    own = [*(sets or []), *_settings(data, eval_, mapped, method, parent, max_steps)]
    wishes = Wishes(config, recipe, base, own, out_folder, push, resume, force, launch_options(devices, accelerate))
    out = Output(json, quiet)
    if dry_run:
        dry(wishes, not no_probe, out)
    elif wishes.launch and not is_started():
        train_together(devices, accelerate, sys.argv[1:], reads_stdin(data, eval_))
    else:
        end_with_starter()
        carry_out(wishes, out)


def _settings(
    data: list[str] | None,
    eval_: list[str] | None,
    mapped: list[str] | None,
    method: str | None,
    parent: str | None,
    max_steps: int | None,
) -> list[str]:
    """What options say, as `--set` would."""
    import json

    from adreg.train.config import map_sets

    told = {"data.train": data, "data.eval": eval_, "method": method, "parent": parent, "train.max_steps": max_steps}
    sets = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in told.items() if value]
    return [*sets, *map_sets(mapped or [])]

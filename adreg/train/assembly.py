"""Model, objective and rows of a run, put together and ready for the loop. Knows what fits what, not how long it lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.progress import SILENT, Progress
from adreg.train.config import TrainConfig
from adreg.train.data.prepare import Prepared
from adreg.train.launch.member import take_profile
from adreg.train.loop.plan import examples_of
from adreg.train.loop.world import take_device

if TYPE_CHECKING:
    from adreg.train.model.load import Model
    from adreg.train.steps.batch import Layout
    from adreg.train.steps.objective import Objective


@dataclass(frozen=True)
class Assembly:
    """A model with its adapter on it, what it is trained for, and the rows as that takes them.

    `budget` are the tokens that run at once; `taken` is what was chosen for this machine: device, precision and so on.
    """

    model: Model
    objective: Objective[Any]
    rows: Sequence[Any]
    held_out: Sequence[Any]
    budget: int
    taken: dict[str, Any]


def assemble(base: Path, config: TrainConfig, data: Prepared, parent: Path | None, progress: Progress = SILENT) -> Assembly:
    """Load the base in its folder, put the adapter on it, and choose the layout of rows, fused layers and objective."""
    from adreg.train.model.load import load_model
    from adreg.train.steps.process import keep_memory

    take_profile()
    take_device()
    keep_memory()
    firsts = [examples_of(data.train[place])[0] for place in (0, -1)]
    looked_at = (one for row in data.train for one in examples_of(row))
    model = load_model(base, config, looked_at, parent)
    layout, taken = _prepare_model(model, firsts)
    objective, rows, held_out = _objective(config, model, data, layout, parent is not None, progress)
    return Assembly(model, objective, rows, held_out, config.train.micro_tokens, taken)


def _prepare_model(model: Any, examples: list[Any]) -> tuple[Layout, dict[str, Any]]:
    """Set fused layers, attention and output layer; returns how rows are laid out, and what was chosen.

    The layers come first, so that the proof that rows do not see each other is of what will run.
    """
    from adreg.train.model.decoder import native_layers
    from adreg.train.model.fused import fuse
    from adreg.train.steps.layout import choose_layout

    fused = fuse(model)
    layout = choose_layout(model, examples)
    precision = str(model.dtype).removeprefix("torch.")
    how = "single" if layout.single else "padded" if layout.padded else layout.attention
    chosen = {"device": model.device.type, "precision": precision, "attention": how}
    return layout, {**chosen, "fused_layers": fused, "native_layers": native_layers(model)}


def _objective(
    config: TrainConfig, model: Any, data: Prepared, layout: Layout, continued: bool, progress: Progress
) -> tuple[Objective[Any], Any, Any]:
    """The objective with the rows that it takes, for training and held out."""
    if config.objective == "sft":
        from adreg.train.steps.sft import SftObjective

        return SftObjective(layout), data.train, data.held_out
    from adreg.train.steps.preference import DpoObjective, score

    budget = config.train.micro_tokens
    rows, held_out = (score(model, part, budget, layout, continued, progress) for part in (data.train, data.held_out))
    return DpoObjective(config.dpo.beta, layout), rows, held_out

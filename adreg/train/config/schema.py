"""What may be set for a training, section by section. Strict: a name that is not here is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Positive = Annotated[float, Field(gt=0)]
Method = Literal["lora", "ia3", "loha", "lokr", "prefix", "p-tuning", "prompt"]
Initial = Literal["default", "gaussian", "pissa", "olora", "eva", "orthogonal"]
Tracker = Literal["tensorboard", "wandb", "trackio", "swanlab"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BaseSettings(_Strict):
    """The base. `name` is where a recipe expects it, and what is taken where the command names none; `remote_code` is the
    consent to run the Python files of this very checkpoint."""

    name: str | None = None
    remote_code: bool = False
    quantise: Literal["none", "nf4"] = "none"


class LoraSettings(_Strict):
    """The adapter. `alpha` defaults to 2r. `targets`: all-linear, auto (PEFT's choice for the architecture), or names.

    `lr_ratio` is LoRA+'s learning rate of B over that of A. Patterns map names of modules to their own rank or alpha.
    `init` variants that change the base are saved converted, so that the adapter fits the base as it is.
    """

    r: Annotated[int, Field(strict=True, ge=1, le=1024)] = 8
    alpha: Positive | None = None
    dropout: Share = 0.0
    targets: Literal["all-linear", "auto"] | list[str] = "all-linear"
    exclude: list[str] = []
    layers: list[int] | None = None
    rslora: bool = False
    dora: bool = False
    init: Initial = "default"
    lr_ratio: Positive | None = None
    rank_pattern: dict[str, Count] = {}
    alpha_pattern: dict[str, Positive] = {}
    modules_to_save: list[str] = []
    new_tokens: list[str] = []

    @property
    def chosen_alpha(self) -> float:
        return 2.0 * self.r if self.alpha is None else self.alpha


class PromptSettings(_Strict):
    """The methods that learn virtual tokens: prefix, p-tuning and prompt tuning. `text` begins prompt tuning's."""

    tokens: Count = 20
    hidden: Count | None = None
    text: str | None = None


class ColumnMap(_Strict):
    """Which column holds what; a column may be a path such as `answers.text[0]`."""

    messages: str | None = None
    system: str | None = None
    prompt: str | None = None
    input: str | None = None
    answer: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    text: str | None = None


class Source(_Strict):
    """A file of rows; `-` is standard input. `weight`: how often its rows are seen, next to those of other files; 0.5 is
    every second row, 2 is each row twice. `map` goes over that of all files."""

    path: Path
    weight: Positive = 1.0
    map: Literal["auto"] | ColumnMap | None = None


def _sources(value: Any) -> Any:
    entries = value if isinstance(value, list) else [value]
    return [{"path": entry} if isinstance(entry, str | Path) else entry for entry in entries]


Sources = Annotated[list[Source], BeforeValidator(_sources)]


class DataSettings(_Strict):
    """The rows. `eval`: held-out files, or the share of the training rows to hold out. `system`: for rows without one.

    `template`: auto is the tokenizer's own chat template, else plain text. `too_long`, for rows of more than `max_tokens`:
    drop them, trim the prompt's head, split a text in several, cut the answer (and then not learn its end), or stop.
    """

    train: Sources = []
    eval: Share | Sources = 0.05
    map: Literal["auto"] | ColumnMap = "auto"
    template: str = "auto"
    system: str | None = None
    max_tokens: Annotated[int, Field(strict=True, ge=8)] = 1024
    too_long: Literal["drop", "trim_prompt", "split", "cut", "error"] = "drop"
    train_on: Literal["completion", "all"] = "completion"


class LoopSettings(_Strict):
    """The loop. `batch`: rows a step. `micro_tokens`: tokens run at once. `warmup`: share of the steps.

    `packing` fills each step up to `micro_tokens` with as many rows as fit, best fit first, instead of `batch` rows.
    `checkpointing` computes activations twice to save memory; auto: where the plan says that they would not fit.
    """

    epochs: Positive = 3
    max_steps: Count | None = None
    lr: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip: Positive = 1.0
    batch: Count = 16
    micro_tokens: Annotated[int, Field(strict=True, ge=8)] = 1024
    packing: bool = False
    checkpointing: Literal["auto", "on", "off"] = "auto"
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 42
    precision: Literal["auto", "bf16", "fp32"] = "auto"


class DpoSettings(_Strict):
    """Direct preference optimisation on pairs of a chosen and a rejected answer; the base itself is the reference."""

    beta: Positive = 0.1


class EvalSettings(_Strict):
    """Looking at the held-out rows: `every` so many steps, or at the end of each epoch, beside before and after.

    `early_stop`: so many looks without a better loss end the run, and the best adapter is kept. `prompts` are answered before
    and after, greedily.
    """

    every: Count | Literal["epoch"] | None = None
    early_stop: Count | None = None
    prompts: list[str] = []
    max_new_tokens: Count = 128


class SaveSettings(_Strict):
    """Checkpoints to resume from: `every` so many steps or at the end of each epoch; the newest `keep` stay."""

    every: Count | Literal["epoch"] | None = 100
    keep: Count = 2


class TrainConfig(_Strict):
    """Everything that decides a run apart from the base's bytes. `expected_trainable` is asserted when it runs.

    `parent` is the registered adapter, or the folder of one, whose training is continued.
    """

    description: str = ""
    objective: Literal["sft", "dpo"] = "sft"
    method: Method = "lora"
    parent: str | None = None
    base: BaseSettings = BaseSettings()
    lora: LoraSettings = LoraSettings()
    prompt: PromptSettings = PromptSettings()
    data: DataSettings = DataSettings()
    train: LoopSettings = LoopSettings()
    dpo: DpoSettings = DpoSettings()
    eval: EvalSettings = EvalSettings()
    save: SaveSettings = SaveSettings()
    track: list[Tracker] = []
    expected_trainable: int | None = None

"""The training configuration: what may be set, and how recipe, file and `--set` become one. Knows values, not models."""

from adreg.train.config.load import change_config, check_config, load_config, map_sets, recorded_config, setting_names
from adreg.train.config.schema import (
    BaseSettings,
    ColumnMap,
    DataSettings,
    DpoSettings,
    EvalSettings,
    LoopSettings,
    LoraSettings,
    PromptSettings,
    SaveSettings,
    Source,
    TrainConfig,
)

__all__ = [
    "BaseSettings",
    "ColumnMap",
    "DataSettings",
    "DpoSettings",
    "EvalSettings",
    "LoopSettings",
    "LoraSettings",
    "PromptSettings",
    "SaveSettings",
    "Source",
    "TrainConfig",
    "change_config",
    "check_config",
    "load_config",
    "map_sets",
    "recorded_config",
    "setting_names",
]

"""The environment in which accelerate's launcher would start a process. Knows accelerate, not what is trained."""

from __future__ import annotations

import os
from pathlib import Path

from adreg.errors import UsageError

KEPT = ("OMP_NUM_THREADS", "PYTHONPATH")


def environment(file: Path) -> dict[str, str]:
    """What accelerate's launcher would add to this process's environment for the configuration `file`.

    Its own parser, checks and translation, without the agent that it then starts. Raises `UsageError` with what it refuses.
    """
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    parser = launch_command_parser()
    total = os.environ["WORLD_SIZE"]
    words = ["--config_file", str(file), "--num_processes", total, "--main_process_port", "0", "adreg"]
    try:
        arguments, defaults, _ = _validate_launch_command(parser.parse_args(words))
        if arguments.use_deepspeed:
            arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
            found = prepare_deepspeed_cmd_env(arguments)[1]
        else:
            found = prepare_multi_gpu_env(arguments)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"accelerate refuses {file}: {error}") from error
    return {name: value for name, value in found.items() if os.environ.get(name) != value and name not in KEPT}

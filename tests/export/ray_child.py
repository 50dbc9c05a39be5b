"""Runs in Ray's own environment: Ray's classes read the configuration, and Ray's loader lists and downloads the adapters.

The order comes as JSON on stdin, what was found goes to stdout.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    from ray.llm._internal.common.utils.lora_utils import get_lora_model_ids
    from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
    from ray.llm._internal.serve.utils.lora_serve_utils import LoraModelLoader
    from ray.serve.schema import ServeDeploySchema

    order = json.load(sys.stdin)
    deployed = ServeDeploySchema.model_validate(order["config"])
    (said,) = deployed.applications[0].args["llm_configs"]
    config = LLMConfig.model_validate(
        {**said, "lora_config": {**said["lora_config"], "dynamic_lora_loading_path": order["url"]}}
    )
    path = config.lora_config.dynamic_lora_loading_path
    loader = LoraModelLoader(lora_root=order["folder"], download_timeout_s=config.lora_config.download_timeout_s)

    async def load(model: str) -> dict[str, Any]:
        folder = Path((await loader.load_model_from_config(model, config)).local_path)
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}

    found = {model: asyncio.run(load(model)) for model in get_lora_model_ids(path, config.model_id)}
    json.dump({"found": found, "engine": config.engine_kwargs, "adapters": config.multiplex_config().model_dump()}, sys.stdout)


if __name__ == "__main__":
    main()

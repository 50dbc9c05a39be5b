"""The entry point in the group `vllm.general_plugins`. vLLM calls it in each of its processes, and maybe more than once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adreg.serve.plugin.settings import PluginSettings

NAME = "adreg"
log = logging.getLogger("vllm.adreg")


def register() -> None:
    """Let vLLM ask adreg for adapters that it does not know, where `ADREG_VLLM_REGISTRY` says which registry; else nothing.

    What the environment says and cannot be meant is logged, and then adreg is not asked.
    """
    from adreg.errors import AdregError
    from adreg.serve.plugin.settings import PluginSettings

    try:
        settings = PluginSettings.from_environment()
    except AdregError as error:
        log.error("adreg resolves no adapters: %s", error)
        return
    if settings is not None:
        _register(settings)


def _register(settings: PluginSettings) -> None:
    from vllm.lora.resolver import LoRAResolverRegistry

    if NAME in LoRAResolverRegistry.get_supported_resolvers():
        return
    from adreg.registry.perthread import PerThread
    from adreg.serve.plugin.library import Library
    from adreg.serve.plugin.resolver import AdregResolver
    from adreg.settings import Settings

    resolver = AdregResolver(Library(PerThread(Settings.from_environment()), settings))
    LoRAResolverRegistry.register_resolver(NAME, resolver)

"""vLLM's `LoRAResolver`, answered by a `Library`. Imports vLLM, so it is imported where vLLM is; raises nothing.

The interface is that of vLLM 0.32 (vllm/lora/resolver.py). vLLM asks once for a name and keeps the answer for ever.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver

from adreg.errors import AdregError, BadReference
from adreg.serve.plugin.library import Library

log = logging.getLogger("vllm.adreg")
SHOWN = 200


class AdregResolver(LoRAResolver):  # type: ignore[misc]
    """Adapters of a registry, by the references that always mean the same version."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter `lora_name`, ready to be loaded; None, with the reason in vLLM's log, where there is none for this base.

        Hashing and fetching happen in another thread: requests that run go on meanwhile.
        """
        try:
            folder = await asyncio.to_thread(self._library.folder, base_model_name, lora_name)
        except BadReference:
            log.info("adreg: %r is no reference to an adapter", lora_name[:SHOWN])
        except (AdregError, OSError, sqlite3.Error) as error:
            hint = getattr(error, "hint", "")
            log.warning("adreg: %r is refused: %s%s", lora_name[:SHOWN], error, f" ({hint})" if hint else "")
        except Exception:  # vLLM would answer 500 and not ask the next resolver
            log.exception("adreg: %r could not be looked up", lora_name[:SHOWN])
        else:
            log.info("adreg: %r is %s", lora_name, folder)
            # vLLM numbers it anew
            return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder), base_model_name=base_model_name)
        return None

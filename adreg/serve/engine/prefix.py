"""Keys and values of the beginnings of prompts, kept in blocks for those that begin alike. Knows digests and tokens.

The key of a block is a hash over everything that its numbers depend on: base, executor and types in the `domain`, the
adapter's digest (which fixes its scaling too), the tenant, and all tokens up to its end. Names and slots are no part of
it, so that no reload, rename or eviction can bring a block to another adapter. Tokens are compared on a hit all the same.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from numpy.typing import NDArray

from adreg.serve.executor import BLOCK, Executor, Memory
from adreg.serve.generation import Generation


@dataclass(frozen=True)
class Block:
    """Keys and values of `tokens`, which follow those of the block before."""

    tokens: tuple[int, ...]
    values: NDArray[Any]


class PrefixStore:
    """Blocks up to `limit` bytes; the least recently used go first, and never before those that continue them.

    `domain` names what all blocks depend on. Tenants share nothing, not even the time that a hit saves.
    """

    def __init__(self, executor: Executor, domain: Sequence[str], limit: int) -> None:
        self.limit, self.nbytes = limit, 0
        self.hit_tokens = self.asked_tokens = 0
        """Prompt tokens that were found here, and that were looked for."""
        self._executor, self._domain = executor, domain
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def load(self, asked: Generation, memory: Memory) -> int:
        """Write to `memory` what is known of the beginning of the prompt; returns how many tokens. Never all of it: the
        last one gives the first logits. Log-probabilities of the prompt need all of its logits, so nothing is loaded."""
        if asked.prompt_logprobs or not self.limit:
            return 0
        found: list[bytes] = []
        for key, tokens in self._chain(asked, asked.prompt[:-1]):
            block = self._blocks.get(key)
            if block is None or block.tokens != tokens:
                break
            self._executor.copy_in(memory, len(found) * BLOCK, block.values)
            found.append(key)
        self._touch(found)
        self.asked_tokens += len(asked.prompt)
        self.hit_tokens += len(found) * BLOCK
        return len(found) * BLOCK

    def keep(self, asked: Generation, memory: Memory) -> None:
        """Keep the whole blocks of the prompt, all of which `memory` holds."""
        most = self.limit // self._executor.bytes_per_token
        keys = []
        for index, (key, block) in enumerate(self._chain(asked, asked.prompt[:most])):
            if key not in self._blocks:
                values = self._executor.copy_out(memory, index * BLOCK, (index + 1) * BLOCK)
                self._blocks[key] = Block(block, values)
                self.nbytes += values.nbytes
            keys.append(key)
        self._touch(keys)
        while self.nbytes > self.limit:
            _, block_out = self._blocks.popitem(last=False)
            self.nbytes -= block_out.values.nbytes

    def clear(self) -> None:
        self._blocks.clear()
        self.nbytes = 0

    def _touch(self, keys: list[bytes]) -> None:
        """Make the blocks of one chain the most recent ones, its first block most of all: without it the others are lost."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)

    def _chain(self, asked: Generation, tokens: tuple[int, ...]) -> list[tuple[bytes, tuple[int, ...]]]:
        """Key and tokens of every whole block of `tokens`."""
        key, chain = self._root(asked), []
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            block = tokens[start : start + BLOCK]
            key = blake2b(key + array("q", block).tobytes(), digest_size=32).digest()
            chain.append((key, block))
        return chain

    def _root(self, asked: Generation) -> bytes:
        """Each part with its length before it, so that no two lists of parts look alike."""
        model = ("base",) if asked.adapter is None else ("adapter", asked.adapter)
        parts = [part.encode() for part in (*self._domain, *model, asked.tenant, asked.salt)]
        return blake2b(b"".join(len(part).to_bytes(8) + part for part in parts), digest_size=32).digest()

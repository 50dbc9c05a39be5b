"""Rows as token ids with labels: an answer and the token that ends it are learned, nothing else. Knows no tensors.

Character spans of the text are mapped to tokens through the tokenizer's offsets, so that merges across the border
of prompt and answer cannot shift the mask, and no padding id takes part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adreg.errors import UnsupportedError
from adreg.formats.strictjson import JsonObject
from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.train.rows import Row
from adreg.train.spans import Rendered, Renderer, Span

if TYPE_CHECKING:
    from tokenizers import Encoding

IGNORED = -100
Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Example:
    """`ids` and `labels` have one length; a label is the id itself where it is learned and -100 elsewhere, always at 0.

    Both end with the last learned token: in a causal model nothing after it has an effect.
    """

    path: Path
    line: int
    ids: Ids
    labels: Ids

    @property
    def trained(self) -> int:
        return int(np.count_nonzero(self.labels != IGNORED))


class Encoder:
    """Encodes rows for one base with the `tokenizers` library. `learn_all` trains the prompt's tokens too."""

    def __init__(self, tokenizer: TokenizerFiles, learn_all: bool = False) -> None:
        from tokenizers import Tokenizer

        if tokenizer.definition is None:
            raise UnsupportedError(f"a tokenizer without tokenizer.json ({tokenizer.folder})", "convert it with transformers")
        self.renderer, self.learn_all = Renderer(tokenizer), learn_all
        self.tokenizer: Tokenizer = Tokenizer.from_str(json.dumps(_with_whole_offsets(tokenizer.definition)))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def encode(self, rows: Sequence[Row]) -> list[Example]:
        """An example for each row. Raises `DataError` for a row whose answer or stop token would not be learned."""
        rendered = [self.renderer.render(row) for row in rows]
        encodings: dict[bool, list[Encoding]] = {}
        for special in (True, False):
            texts = [one.text for one in rendered if one.special is special]
            encodings[special] = self.tokenizer.encode_batch(texts, add_special_tokens=special)[::-1]
        return [self._example(row, one, encodings[one.special].pop()) for row, one in zip(rows, rendered, strict=True)]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of `ids`, control tokens included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def _example(self, row: Row, rendered: Rendered, encoding: Encoding) -> Example:
        ids = np.array(encoding.ids, dtype=np.int32)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        learned = np.full(len(ids), self.learn_all)
        for span in rendered.spans:
            learned[self._tokens(row, span, ids, offsets)] = True
        learned[:1] = False
        if not learned.any():
            raise row.fault("none of its tokens would be learned")
        end = int(np.flatnonzero(learned)[-1]) + 1
        return Example(row.path, row.line, ids[:end], np.where(learned, ids, np.int32(IGNORED))[:end])

    def _tokens(self, row: Row, span: Span, ids: Ids, offsets: NDArray[np.int64]) -> slice:
        """The tokens that hold characters of `span`, also where they begin before it; the last must be its stop token."""
        inside = np.flatnonzero((offsets[:, 0] < span.end) & (offsets[:, 1] > span.start))
        stop = self.tokenizer.token_to_id(span.stop)
        if not len(inside) or ids[inside[-1]] != stop:
            raise row.fault(f"its stop token {span.stop} is not one token at the end of the answer")
        return slice(int(inside[0]), int(inside[-1]) + 1)


def _with_whole_offsets(definition: JsonObject) -> JsonObject:
    """`definition` with offsets that keep the white space of a token; ids do not depend on it."""

    def whole(step: Any) -> Any:
        if isinstance(step, list):
            return [whole(inner) for inner in step]
        if not isinstance(step, dict):
            return step
        return {key: False if key == "trim_offsets" else whole(value) for key, value in step.items()}

    return {**definition, "post_processor": whole(definition.get("post_processor"))}

"""Rows as token ids with labels: an answer and the token that ends it are learned, nothing else. Knows no tensors.

Character spans of the text are mapped to tokens through the tokenizer's offsets, so that merges across the border
of prompt and answer cannot shift the mask, and no padding id takes part.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adreg.errors import FormatError, UnsupportedError, UsageError
from adreg.formats.strictjson import read_text
from adreg.formats.text.spmtokenizer import MODEL, definition_from_model
from adreg.formats.text.tokenizer import TOKENIZER_LIMIT, TokenizerFiles
from adreg.train.data.rendering import TemplateProcess, shared_process
from adreg.train.data.rows import Row
from adreg.train.data.spans import Rendered, Renderer, Span
from adreg.train.data.templates import OWN, choose_template

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

IGNORED = -100
CHUNK = 500
TRIMMING = re.compile(rb'"trim_offsets"\s*:\s*true')
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


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt: the first tokens of both are the same."""

    chosen: Example
    rejected: Example


class Encoder:
    """Encodes rows for one base with the `tokenizers` library, by the template that `template` names (`data.template`).

    `files` are the tokenizer's with that template. `learn_all` trains the prompt's tokens too; `raw` says that prompt and
    answer follow each other directly where the base has no template.
    """

    def __init__(
        self,
        tokenizer: TokenizerFiles,
        learn_all: bool = False,
        template: str = "auto",
        raw: bool = False,
        process: TemplateProcess | None = None,
    ) -> None:
        self.learn_all, self.tokenizer = learn_all, _load(tokenizer)
        eos = tokenizer.special_token("eos_token")
        if not eos:
            raise UnsupportedError(f"a tokenizer without eos_token ({tokenizer.folder})", "name one in tokenizer_config.json")
        chosen = choose_template(template, tokenizer.chat_template, raw)
        text = chosen.text if chosen.name == OWN else self._opened(chosen.text, tokenizer)
        self.template, self.eos = chosen.name, eos
        self.files = tokenizer if text == tokenizer.chat_template else tokenizer.with_template(text)
        added = self.tokenizer.get_added_tokens_decoder().values()
        controls = [token.content for token in added if token.special]
        self.renderer = Renderer(text, tokenizer.special_tokens, eos, controls, process or shared_process())
        self._require_tokens(tokenizer)

    def encode(self, rows: Sequence[Row]) -> list[Example]:
        """An example for each row. Raises `DataError` for a row whose answer or stop token would not be learned."""
        chunks = [rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK)]
        with ThreadPoolExecutor(1) as ahead:  # one chunk is tokenised, which needs no Python, while the next is rendered
            waiting: deque[tuple[Sequence[Row], list[Rendered], Future[list[Encoding]]]] = deque()
            examples: list[Example] = []
            for chunk in chunks:
                rendered = self.renderer.render(chunk)
                waiting.append((chunk, rendered, ahead.submit(self._tokenised, rendered)))
                if len(waiting) > 1:
                    examples += self._examples(*waiting.popleft())
            for last in waiting:
                examples += self._examples(*last)
        return examples

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of `ids`, control tokens included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def _tokenised(self, rendered: Sequence[Rendered]) -> list[Encoding]:
        encodings: dict[bool, list[Encoding]] = {}
        for special in (True, False):
            texts = [one.text for one in rendered if one.special is special]
            encodings[special] = self.tokenizer.encode_batch(texts, add_special_tokens=special)[::-1] if texts else []
        return [encodings[one.special].pop() for one in rendered]

    def _examples(self, rows: Sequence[Row], rendered: Sequence[Rendered], tokenised: Future[list[Encoding]]) -> list[Example]:
        """The examples as views of two arrays with the tokens of all."""
        encodings = tokenised.result()
        listed = [encoding.ids for encoding in encodings]
        ids = np.fromiter(chain.from_iterable(listed), np.int32, sum(map(len, listed)))
        labels = ids.copy() if self.learn_all else np.full(len(ids), IGNORED, np.int32)
        examples, start = [], 0
        for row, one, encoding, own in zip(rows, rendered, encodings, listed, strict=True):
            last = 0
            for span in one.spans:
                learned = self._tokens(row, span, encoding, own)
                last = learned.stop
                labels[start + learned.start : start + last] = ids[start + learned.start : start + last]
            if last < 2:
                raise row.fault("none of its tokens would be learned", "remove the row")
            labels[start] = IGNORED
            examples.append(Example(row.path, row.line, ids[start : start + last], labels[start : start + last]))
            start += len(own)
        return examples

    def _tokens(self, row: Row, span: Span, encoding: Encoding, ids: list[int]) -> slice:
        """The tokens that hold characters of `span`, also where they begin before it; the last must be its stop token."""
        inside = (encoding.char_to_token(place) for place in range(span.start, span.end))
        first = next((token for token in inside if token is not None), None)
        last = encoding.char_to_token(span.end - 1)
        if first is None or last is None or ids[last] != self.tokenizer.token_to_id(span.stop):
            fix = "make it a special token of the tokenizer, or choose another data.template"
            raise row.fault(f"its stop token {span.stop} is not one token at the end of the answer", fix)
        return slice(first, last + 1)

    def _opened(self, text: str, files: TokenizerFiles) -> str:
        """A template of adreg's with the token that this tokenizer itself puts before every text."""
        bos = files.special_token("bos_token")
        opening = self.tokenizer.encode("", add_special_tokens=True).ids[:1]
        return "{{ bos_token }}" + text if bos and opening == [self.tokenizer.token_to_id(bos)] else text

    def _require_tokens(self, files: TokenizerFiles) -> None:
        """Raise `UsageError` unless the tokens that the template writes as such are tokens."""
        for token in [self.eos, *(token for token in ("<|im_start|>", "<|im_end|>") if self.template == "chatml")]:
            if self.tokenizer.token_to_id(token) is None:
                raise UsageError(
                    f"{files.place('tokenizer_config.json')}: its tokenizer has no token {token!r}, which ends every answer",
                    "choose a template without it, such as --set data.template=qa"
                    if token != self.eos
                    else "name the token that ends a text as eos_token",
                )


def _load(files: TokenizerFiles) -> Tokenizer:
    """The tokenizer with offsets that keep the white space of a token; ids do not depend on it."""
    from tokenizers import Tokenizer

    known = files.__dict__.get("definition")  # read already, or with tokens that the file lacks
    if known is None and not files.has("tokenizer.json"):
        if not files.has(MODEL):
            raise UnsupportedError(f"a tokenizer without tokenizer.json ({files.folder})", "convert it with transformers")
        known = definition_from_model(files)
    text = json.dumps(known).encode() if known else read_text(files.path, "T-TOK-0", TOKENIZER_LIMIT)
    try:
        tokenizer = Tokenizer.from_str(TRIMMING.sub(b'"trim_offsets": false', text).decode("utf-8"))
    except Exception as error:  # the library raises Exception itself
        raise FormatError(files.path, f"is no tokenizer: {error}", "T-TOK-0") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer

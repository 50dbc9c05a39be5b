"""Text comes in pieces that join to the whole, without half characters and without stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adreg.serve.text.stream import Detokenizer, StopStrings, TextStream
from adreg.serve.text.tokenizer import Tokenizer, Tokenizers

HARD = "Grüße, 你好世界！🙂👩‍👩‍👧‍👦 龘靐齉 — naïve\n  \tΩ≈ç√ 🇨🇳 the end"


@pytest.fixture(scope="module")
def byte_level(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizers(tokenizer_folder).base


@pytest.fixture(scope="module")
def byte_fallback() -> Any:
    """A tokenizer of SentencePiece's kind: spaces as ▁, unknown characters as one token a byte."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, normalizers

    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz", "▁the", "▁end"]
    vocabulary = [(piece, -1.0 if len(piece) < 3 else -0.5) for piece in pieces]
    fast = Fast(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return fast


def pieces_of(decode: Any, tokens: Sequence[int], prompt: Sequence[int] = ()) -> list[str]:
    stream = Detokenizer(decode, prompt)
    return [*(stream.push(token) for token in tokens), stream.finish()]


def test_pieces_join_to_the_text_and_hold_no_half_character(byte_level: Tokenizer, byte_fallback: Any) -> None:
    for encode, decode in (
        (byte_level.encode, byte_level.decode),
        (lambda text: byte_fallback.encode(text).ids, lambda ids: byte_fallback.decode(list(ids))),
    ):
        tokens = encode(HARD)
        pieces = pieces_of(decode, tokens)
        assert "".join(pieces) == HARD == decode(tokens)
        assert len([piece for piece in pieces if piece]) > 15
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_text_that_is_cut_inside_a_character_ends_before_it(byte_level: Tokenizer) -> None:
    tokens = byte_level.encode("ab🙂")
    assert byte_level.decode(tokens[:-1]).endswith("\ufffd")
    assert "".join(pieces_of(byte_level.decode, tokens[:-1])) == "ab"


def test_the_space_before_the_first_word_survives(byte_fallback: Any) -> None:
    def decode(ids: Sequence[int]) -> str:
        return str(byte_fallback.decode(list(ids)))

    prompt = byte_fallback.encode("abc").ids
    the_end = byte_fallback.encode("the end").ids
    assert decode(the_end) == "the end"
    assert "".join(pieces_of(decode, the_end, prompt)) == " the end"


@given(ids=st.lists(st.integers(0, 49151), max_size=40))
def test_pieces_of_any_tokens_join_to_their_text(byte_level: Tokenizer, ids: list[int]) -> None:
    assert "".join(pieces_of(byte_level.decode, ids)) == byte_level.decode(ids).rstrip("\ufffd")


@given(text=st.text("ab\n", max_size=30), stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4), data=st.data())
def test_stop_strings_cut_at_the_same_place_however_the_text_is_split(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    stream, got = StopStrings(stops), ""
    for piece in pieces:
        got += stream.push(piece)
        assert not any(stop in got for stop in stops)
        if stream.found:
            break
    got += stream.finish()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert stream.found == bool(ends)
    # character by character, the stop string that is complete first decides
    if not ends:
        assert got == text
    elif all(len(piece) <= 1 for piece in pieces):
        first = min(ends)
        assert got == text[: min(first - len(stop) for stop in stops if text[:first].endswith(stop))]


def test_a_stop_string_across_tokens_is_not_sent(byte_level: Tokenizer) -> None:
    tokens = byte_level.encode("one two\n\nUser: three")
    stream = TextStream(byte_level.decode, (), ("\nUser:", "never"))
    got = ""
    for token in tokens:
        got += stream.push(token)
        if stream.stopped:
            break
    assert stream.stopped
    assert got == "one two\n"
    assert len(tokens) > tokens.index(token) + 1


def test_silent_tokens_are_forgotten_and_texts_around_them_join(byte_level: Tokenizer) -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return byte_level.decode(ids)

    stream = Detokenizer(decode, byte_level.encode("a prompt"))
    tokens = [*byte_level.encode("one"), *[2] * 300, *byte_level.encode(" 🙂 two")]
    assert "".join([*map(stream.push, tokens), stream.finish()]) == "one 🙂 two"
    assert longest < 20

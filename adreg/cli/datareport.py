"""What `adreg data check` shows of a file: its report, and rows with what is learned of them in green."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from adreg.cli.output import number
from adreg.cli.terminal import clean, styled

if TYPE_CHECKING:
    from adreg.train.data.encode import Encoder, Example
    from adreg.train.data.loader import Loaded
    from adreg.train.data.report import DataReport

BAR, SHOWN, LABEL = 32, 700, 12
EIGHTHS = " ▏▎▍▌▋▊▉"
Piece = tuple[str, bool]


def report_lines(report: DataReport, stop: str, colour: bool) -> Iterator[str]:
    """The report for people: a line for each thing that there is to say, and how long the rows are."""
    yield styled(clean(report.path), "bold", colour) + styled(f"  sha256 {report.sha256[:12]}", "dim", colour)
    for label, text, style in _facts(report, stop):
        yield f"  {styled(f'{label:<{LABEL}}', 'dim', colour)}{styled(clean(text), style, colour)}"
    for label, bar, text in length_bars(report.lengths):
        yield f"  {styled(f'{label:>{LABEL - 2}}', 'dim', colour)}  {styled(bar, 'cyan', colour)} {styled(text, 'dim', colour)}"


def _facts(report: DataReport, stop: str) -> Iterator[tuple[str, str, str]]:
    share = report.trained_tokens / max(1, report.total_tokens)
    yield "form", f"{report.form} ({report.kind})" if report.form != report.kind else report.form, ""
    renamed = [f"{role} ← {column}" for role, column in report.mapping.items() if role != column]
    if renamed:
        yield "read as", ", ".join(renamed), ""
    if report.ignored:
        yield "ignored", ", ".join(report.ignored), "yellow"
    yield "template", report.template or "none: plain texts", ""
    if not report.asked_alike:
        yield (
            "",
            "asks for an answer otherwise than it is trained: what it puts before answers, such as <think>, differs",
            "yellow",
        )
    kind = "pairs" if "rejected" in report.mapping else "rows"
    yield kind, f"{report.used:,} of {report.rows:,} used" + (f" × {report.weight:g}" if report.weight != 1 else ""), ""
    for label, counts in (("dropped", report.dropped), ("changed", report.changed), ("odd", report.notes)):
        if counts:
            yield label, ", ".join(f"{count:,} {why}" for why, count in counts.items()), "yellow"
    if report.duplicates:
        yield "duplicates", f"{report.duplicates:,}, kept", "yellow"
    yield "tokens", f"{report.total_tokens:,}, the longest row {report.longest:,}", ""
    yield "learned", f"{report.trained_tokens:,} tokens, {share:.0%}", "green"
    whole = f"all {report.complete:,}" if report.complete == report.used else f"{report.complete:,}"
    yield (
        "stop token",
        f"{stop} is learned at the end of {whole} complete rows" if stop else "nothing is left to learn",
        "green",
    )


def length_bars(lengths: Sequence[Sequence[int]]) -> Iterator[tuple[str, str, str]]:
    """For each class of lengths: its bound, a bar of at most `BAR` columns, and how many rows are in it."""
    most = max((count for _, count in lengths), default=1)
    for bound, count in lengths:
        eighths = round(BAR * 8 * count / most)
        eighths = max(eighths, 1) if count else 0
        yield (
            f"≤ {bound:,}",
            "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip(),
            number(count) if count > 9999 else f"{count:,}",
        )


def samples(loaded: Loaded, encoder: Encoder, count: int) -> list[dict[str, Any]]:
    """Up to `count` examples, spread over the file: where each is, and its text in pieces that are learned or not."""
    import numpy as np

    size = 2 if "rejected" in loaded.report.mapping else 1
    rows = len(loaded.tokens) // size
    found = []
    for row in sorted({int(place) for place in np.linspace(0, rows - 1, min(count, rows))}):
        examples = [loaded.tokens[size * row + side] for side in range(size)]
        names = ("chosen", "rejected") if size == 2 else ("text",)
        tokens = {"tokens": sum(len(one.ids) for one in examples), "learned": sum(one.trained for one in examples)}
        shown = {name: _pieces(encoder, one) for name, one in zip(names, examples, strict=True)}
        found.append({"line": examples[0].line, **tokens, **shown})
    return found


def sample_lines(path: str, sample: Mapping[str, Any], colour: bool) -> Iterator[str]:
    """A sample for people. Without colours, what is learned stands between ⟦ and ⟧."""
    title = f"── {path}:{sample['line']} · {sample['tokens']:,} tokens, {sample['learned']:,} learned "
    yield ""
    yield styled(clean(f"{title:─<72}"), "dim", colour)
    if "text" in sample:
        yield _drawn(sample["text"], "green", colour)
        return
    yield _drawn(sample["chosen"], "green", colour)
    yield styled("rejected:", "dim", colour)
    yield _drawn(sample["rejected"][-1:], "red", colour)


def _drawn(pieces: Sequence[Piece], style: str, colour: bool) -> str:
    if colour:
        return "".join(_styled_lines(_shortened(text), style if learned else "dim") for text, learned in pieces)
    return "".join(f"⟦{_shortened(text)}⟧" if learned else _shortened(text) for text, learned in pieces)


def _styled_lines(text: str, style: str) -> str:
    """Each line in its style, so that none is lost where a pager cuts the text into lines."""
    return "\n".join(styled(line, style, True) for line in clean(text).split("\n"))


def _shortened(text: str) -> str:
    return clean(text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} […] {text[-SHOWN // 2 :]}")


def _pieces(encoder: Encoder, example: Example) -> list[Piece]:
    learned = (example.labels >= 0).tolist()
    borders = [0, *(place for place in range(1, len(learned)) if learned[place] != learned[place - 1]), len(learned)]
    return [(encoder.decode(example.ids[start:end]), learned[start]) for start, end in pairwise(borders)]

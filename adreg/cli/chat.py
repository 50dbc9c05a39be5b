"""`adreg chat`: a conversation in the terminal, with a server that runs or with an engine of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from adreg.cli.client import Client, Piece
from adreg.cli.common import AllowOption, BaseOption, Ref, registry
from adreg.cli.errors import say
from adreg.cli.output import Output, stderr_console
from adreg.cli.terminal import clean, coloured, coloured_stdout
from adreg.errors import AdregError, RemoteError
from adreg.references import parse_reference
from adreg.serve.server.presence import running

if TYPE_CHECKING:
    from adreg.registry.registry import Registry

END = ("stop", "/stop", "/exit", "/quit")
HELP = "/reset forgets the conversation · /system TEXT says how to answer · /model NAME asks another · stop or Ctrl-D ends"
Message = dict[str, str]

System = Annotated[str | None, typer.Option("--system", "-s", help="How the model is to answer, as a system message.")]
Temperature = Annotated[float | None, typer.Option("--temperature", "-t", help="0 is always the likeliest word.", min=0, max=2)]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="The longest answer, in tokens.", min=1)]


def chat(
    ref: Ref,
    base: BaseOption = None,
    system: System = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    allow: AllowOption = [],  # noqa: B006 - typer copies it
) -> None:
    """Talk to an adapter, or to a base by its name. Ctrl-C stops an answer; `stop` or Ctrl-D ends.

    A running `adreg serve` that has it answers, else an engine is started for the while. Piped input is a line a turn.
    Example: adreg chat lighthouse:prod
    """
    out = Output()
    with _server_for(ref, base, allow, out) as client:
        talk = Talk(client, ref, system, {"temperature": temperature, "max_tokens": max_tokens})
        talk.introduce(out)
        for line in _lines():
            if line in END:
                break
            talk.turn(line, out)


@contextmanager
def _server_for(ref: str, base: str | None, allow: list[str], out: Output) -> Iterator[Client]:
    """A running server that has the model `ref`, or else one in this process."""
    found = registry()
    for presence in running(found.settings.home):
        client = Client(presence.url, presence.key)
        with suppress(RemoteError):
            client.model(ref)
            out.note(f"talking to the server at {presence.url}", "dim")
            yield client
            return
    with _own_server(found, ref, base, allow, out) as url:
        yield Client(url)


@contextmanager
def _own_server(found: Registry, ref: str, base: str | None, allow: list[str], out: Output) -> Iterator[str]:
    from adreg.cli.merging import base_of
    from adreg.cli.serving import load
    from adreg.serve.api.app import create_app
    from adreg.serve.server.server import running_server

    bases = {base.name for base in found.bases.all()}
    versions = [] if ref in bases else [found.adapters.resolve(parse_reference(ref))]
    record = found.bases.get(base) if base else base_of(found, versions) if versions else found.bases.get(ref)
    with _spinner(f"loading {record.name}"):
        engine = load(found, record, [ref] if versions else [], out, allow)
    with running_server(create_app(engine)) as url:
        yield url


@dataclass
class Talk:
    """A conversation with `model` so far; `settings` are sent with each question, but for those that are None."""

    client: Client
    model: str
    system: str | None
    settings: dict[str, float | int | None]
    messages: list[Message] = field(default_factory=list)
    adapter: str | None = None

    def introduce(self, out: Output) -> None:
        """Say who answers."""
        told = self.client.model(self.model)
        self.adapter = told["root"] if told["parent"] else None
        who = f"{_version(told['id'], told['root'])} on {told['parent']}" if told["parent"] else told["id"]
        out.note(f"{who} answers" + ("; /help says what else there is" if sys.stdin.isatty() else ""), "dim")

    def turn(self, line: str, out: Output) -> None:
        """Obey a command, or answer. In a terminal an error ends the turn, elsewhere everything."""
        word, _, rest = line.partition(" ")
        try:
            if word == "/reset":
                self.messages.clear()
                out.note("forgotten; we start anew", "dim")
            elif word == "/system":
                self.system = rest.strip() or None
                out.note(f"system: {self.system or 'none'}", "dim")
            elif word == "/model":
                self._switch(rest.strip(), out)
            elif word.startswith("/"):
                out.note(HELP, "dim")
            elif line.strip():
                self._answer(line, out)
        except (AdregError, KeyboardInterrupt) as error:
            if not sys.stdin.isatty():
                raise
            if isinstance(error, AdregError):
                say(error)

    def _switch(self, name: str, out: Output) -> None:
        before, self.model = self.model, name
        try:
            self.introduce(out)
        except RemoteError:
            self.model = before
            raise

    def _answer(self, question: str, out: Output) -> None:
        """Ask, print the answer as it comes, and keep both; an answer that is stopped is kept as far as it came."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        asked = [*system, *self.messages, {"role": "user", "content": question}]
        settings = {name: value for name, value in self.settings.items() if value is not None}
        answer, last, began = "", Piece("", self.adapter), time.monotonic()
        pieces = self.client.chat({"model": self.model, "messages": asked, **settings})
        try:
            with _spinner(""):
                last = next(piece for piece in pieces if piece.text or piece.reason)
            answer = _print(last)
            for last in pieces:
                answer += _print(last)
        except KeyboardInterrupt:
            last = Piece("", last.adapter, "interrupted")
        finally:
            pieces.close()  # type: ignore[attr-defined]
        sys.stdout.write("\n")
        sys.stdout.flush()
        self.messages += [asked[-1], {"role": "assistant", "content": answer}]
        self._footer(last, time.monotonic() - began, out)

    def _footer(self, last: Piece, seconds: float, out: Output) -> None:
        if last.adapter != self.adapter:
            self.adapter = last.adapter
            out.note(f"from now on {_version(self.model, last.adapter or '')} answers", "yellow")
        if sys.stdout.isatty():
            told = [self.model]
            if last.tokens:
                told += [f"{last.tokens} tokens", f"{last.tokens / seconds:.0f} tok/s"]
            if last.reason != "stop":
                told += ["stopped" if last.reason == "interrupted" else "cut at its greatest length"]
            out.note(" · ".join(told), "dim")


def _print(piece: Piece) -> str:
    sys.stdout.write(clean(piece.text.replace("\t", "    ")))
    sys.stdout.flush()
    return piece.text


def _lines() -> Iterator[str]:
    """What the user types or a pipe brings, line by line."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    import readline  # noqa: F401 - gives `input` history and editing

    prompt = "\001\x1b[1;36m\002›\001\x1b[0m\002 " if coloured_stdout() else "› "
    while True:
        try:
            yield input(prompt).strip()
        except KeyboardInterrupt:
            sys.stdout.write("\n")
        except EOFError:
            sys.stdout.write("\n")
            return


@contextmanager
def _spinner(text: str) -> Iterator[None]:
    """Something that moves on a terminal's stderr, while nothing else does."""
    if not coloured(sys.stderr):
        yield
        return
    with stderr_console().status(text):
        yield


def _version(model: str, digest: str) -> str:
    """The version that `model` means at the moment, as `name:3 (digest)`, as far as the registry knows it."""
    short = digest.rpartition(":")[2][:12]
    with suppress(AdregError):
        name = parse_reference(model).name
        return f"{registry().adapters.resolve(parse_reference(f'{name}@{digest}')).reference} ({short})"
    return f"{model} ({short})"

"""An accepted request on its way: generations start when the server asks for the response, and end with it.

What the two dialects share; nothing here knows how they spell things.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from adreg.errors import AdregError
from adreg.serve.api.account import Account, account_of
from adreg.serve.api.chunks import DONE, Chunks, as_event
from adreg.serve.api.dialects import Dialect
from adreg.serve.api.errors import as_api_error
from adreg.serve.api.logprobs import Pair
from adreg.serve.api.mail import Answers, ClientGone, Told, listening
from adreg.serve.api.schemas import Asking
from adreg.serve.api.service import Service
from adreg.serve.generation import Ended, Generation, Prompt, Token
from adreg.serve.models.catalog import ServedModel

JsonObject = dict[str, Any]
log = logging.getLogger("adreg.serve")
STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


@dataclass(frozen=True)
class Job:
    """What is answered: `generations` are the choices, in order; `echoes` the texts of their prompts, if wanted."""

    dialect: Dialect
    model: ServedModel
    asked: Asking
    generations: list[Generation]
    echoes: list[str]
    logprobs: Callable[[], Callable[[Iterable[Pair]], JsonObject]]
    """Makes a writer of log-probabilities, one for each choice."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, each counted once however often it is answered."""
        return sum(len(generation.prompt) for generation in self.generations[:: self.asked.choices])

    def envelope(self, kind: str) -> JsonObject:
        return {
            "id": self.dialect.id_prefix + self.id,
            "object": kind,
            "created": self.created,
            "model": self.model.id,
            "system_fingerprint": self.model.fingerprint,
        }

    @property
    def headers(self) -> dict[str, str]:
        return {"x-adreg-base": self.model.base_digest, "x-adreg-adapter": self.model.adapter or "none"}


class Answer(Response):
    """The response to `job`. A stream's status is sent with its first token, so that whatever fails before has its own."""

    def __init__(self, service: Service, job: Job) -> None:
        super().__init__()
        self._service, self._job = service, job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        account, job = account_of(scope), self._job
        account.usage.prompt = job.prompt_tokens
        answers = Answers(self._service.engine, self._service.mailroom)
        with self._service.running(account):
            try:
                await self._submit(answers)
                async with listening(receive, answers):
                    if job.asked.stream:
                        await _Stream(job, account, answers).run(send)
                    else:
                        await JSONResponse(_whole(job, account, await answers.all()), headers=job.headers)(scope, receive, send)
            except AdregError as error:
                raise as_api_error(error, job.dialect.prompt) from error
            finally:
                account.first_token_at = answers.first_token_at

    async def _submit(self, answers: Answers) -> None:
        """A grammar may take long to compile; everything else is quick."""
        if self._job.generations[0].grammar is not None:
            await asyncio.to_thread(answers.submit, self._job.generations)
        else:
            answers.submit(self._job.generations)


class _Stream:
    """Sends the chunks of one job as its events come."""

    def __init__(self, job: Job, account: Account, answers: Answers) -> None:
        self._job, self._account, self._answers = job, account, answers
        self._writers = [job.logprobs() for _ in job.generations]
        envelope = job.envelope(job.dialect.chunk_object)
        self._chunks = Chunks(job.dialect, envelope, job.asked, account.usage, lambda index, found: self._writers[index](found))

    async def run(self, send: Send) -> None:
        told = await self._answers.some()
        await send({"type": "http.response.start", "status": 200, "headers": _raw({**self._job.headers, **STREAM_HEADERS})})
        body = (self._opening() + self._render(told)).encode()
        try:
            while told:
                await send({"type": "http.response.body", "body": body, "more_body": True})
                told = await self._answers.some()
                body = self._render(told).encode()
            body = self._chunks.usage().encode() + DONE
        except ClientGone:
            self._account.error = "client_gone"
            return
        except Exception as error:
            # the status has been sent already, so an error can only be told as an event, after which nothing comes
            if not isinstance(error, AdregError):
                log.exception("a stream failed")
            refusal = as_api_error(error)
            self._account.error = refusal.code or refusal.body["error"]["type"]
            body = as_event(refusal.body)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _opening(self) -> str:
        """The roles; and the prompts, unless their log-probabilities come with them."""
        opening = self._chunks.first(len(self._job.generations))
        if not self._job.generations[0].prompt_logprobs:
            opening += "".join(self._chunks.echo(index, text, None) for index, text in enumerate(self._job.echoes))
        return opening

    def _render(self, told: list[Told]) -> str:
        chunks, usage = self._chunks, self._account.usage
        out: list[str] = []
        for index, event in told:
            if isinstance(event, Token):
                usage.completion += 1
                out.append(chunks.token(index, event))
            elif isinstance(event, Ended):
                _count_cached(self._job, self._account, index, event)
                out.append(chunks.last(index, event))
            else:
                out.append(
                    chunks.echo(index, self._job.echoes[index], self._writers[index](_prompt_pairs(self._job, index, event)))
                )
        return "".join(out)


def _whole(job: Job, account: Account, told: list[Told]) -> JsonObject:
    choices = [
        _choice(job, account, index, [event for at, event in told if at == index]) for index in range(len(job.generations))
    ]
    return {**job.envelope(job.dialect.object), "choices": choices, "usage": account.usage.body}


def _choice(job: Job, account: Account, index: int, events: list[Prompt | Token | Ended]) -> JsonObject:
    text = job.echoes[index] if job.echoes else ""
    pairs: list[Pair] = []
    reason = ""
    for event in events:
        if isinstance(event, Token):
            text += event.text
            pairs.append((event.id, event.logprob))
        elif isinstance(event, Ended):
            reason = event.reason
            account.usage.completion += event.completion_tokens
            _count_cached(job, account, index, event)
        else:
            pairs = _prompt_pairs(job, index, event)
    logprobs = None if job.generations[index].logprobs is None else job.logprobs()(pairs)
    return job.dialect.choice(index, text, logprobs, reason)


def _prompt_pairs(job: Job, index: int, prompt: Prompt) -> list[Pair]:
    return list(zip(job.generations[index].prompt, prompt.logprobs, strict=True))


def _count_cached(job: Job, account: Account, index: int, ended: Ended) -> None:
    if index % job.asked.choices == 0:
        account.usage.cached += ended.cached_tokens


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]

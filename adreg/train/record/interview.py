"""Asks the model of a run its eval prompts, before training and after, for the record. What fails here costs no training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from adreg.train.config import TrainConfig
from adreg.train.data.prepare import Prepared
from adreg.train.loop.world import is_first, spread
from adreg.train.model.methods import learns_tokens
from adreg.train.record.prompts import eval_prompts
from adreg.train.record.record import Sample
from adreg.train.record.telling import Telling

MOST_PROMPTS = 8


class Interview:
    """The questions of one run. Of several processes the first asks, if its model does not lie in parts."""

    def __init__(self, config: TrainConfig, data: Prepared, telling: Telling) -> None:
        asks = is_first() and not spread()
        self.prompts = eval_prompts(config, data, MOST_PROMPTS) if asks else None
        self.config, self.telling = config, telling

    def before(self, model: Any) -> None:
        """The answers of the model as it is; a run that is resumed has them."""
        if self.prompts is None or self.telling.record.samples:
            return
        untrained = model.disable_adapter() if learns_tokens(self.config) else nullcontext()
        with self._harmless(Exception), untrained:
            found = [Sample(prompt.text, answer.text, None, answer.stopped) for prompt, answer in self._ask(model)]
            if found:
                self.telling.know(samples=found)

    def after(self, model: Any) -> None:
        """The answers of the trained model, beside those of before."""
        if self.prompts is None:
            return
        known = {sample.prompt: sample for sample in self.telling.record.samples}
        with self._harmless(Exception, KeyboardInterrupt, SystemExit):  # the training itself is done, and must be written
            found = [
                known.get(prompt.text, Sample(prompt.text))._replace(after=answer.text, stopped_after=answer.stopped)
                for prompt, answer in self._ask(model)
            ]
            if found:
                self.telling.know(samples=found)

    def _ask(self, model: Any) -> Sequence[Any]:
        from adreg.train.record.samples import answers

        prompts = self.prompts
        assert prompts is not None
        return list(zip(prompts.asked, answers(model, prompts, self.config.eval.max_new_tokens), strict=True))

    @contextmanager
    def _harmless(self, *kinds: type[BaseException]) -> Iterator[None]:
        """Whatever happens while a model answers, its training goes on; the record says that answers are missing."""
        try:
            yield
        except kinds as error:  # a model that trains may still be unable to generate
            self.telling.warn(f"the answers to the eval prompts are missing: {type(error).__name__}: {error}")

"""What `--target peft` and `--target llama.cpp` predict is what PEFT and real llama.cpp do: by loading and by logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from adreg.audit.basecard import BaseCard, make_card
from adreg.audit.findings import Severity
from adreg.audit.run import judge
from adreg.audit.subject import Subject
from adreg.formats.adapters.inspection import inspect_folder
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.bases.fingerprint import fingerprint
from tests.audit.engines import Answer, ask_llamacpp, ask_peft, convert, convert_base, convert_lora, needs_lora_oracle
from tests.audit.variants import BASES, SOUND, SPOILED, VARIANTS, Made, build_base, build_variant

# the converter reads no such base with transformers 5: rotary_pct is gone, Qwen2's tokenizer is another
NOT_CONVERTIBLE = ("neox", "qwen2")
PEFT_SHARE = ("LoRA on all linear", "DoRA", "LoKr", "prefix tuning", "PiSSA fast", "no prefix", "zero B", "other heads")
LLAMACPP_SHARE = ("LoRA on all linear", "rsLoRA", "rank pattern", "DoRA", "tied head", "GPT-2 square", "zero B")
CONTRADICTS = "the file contradicts itself: that the engine guesses what was trained is luck"
STRICTER: dict[str, dict[str, str]] = {
    "peft": {
        "target without tensors": CONTRADICTS,
        "adapter's name in names": "PEFT 0.21 takes it; others load nothing, without a word",
    },
    "llama.cpp": {
        "rank of the configuration": CONTRADICTS,
        "target without tensors": CONTRADICTS,
        "tensors without target": CONTRADICTS,
        "no prefix": "PEFT loads nothing of it, without a word",
        "smuggled tensor": "the converter drops it; PEFT writes it into the base",
        "unknown type": "the converter does not look what type it is",
    },
}


@dataclass
class Workshop:
    """Bases, their cards and variants, each built once."""

    folder: Path
    tokenizer: Path
    cards: dict[str, BaseCard] = field(default_factory=dict)

    def base(self, name: str) -> Path:
        folder = self.folder / "bases" / name.replace(" ", "-")
        return folder if folder.is_dir() else build_base(folder, name, self.tokenizer)

    def card(self, name: str) -> BaseCard:
        if name not in self.cards:
            checkpoint = open_checkpoint(self.base(name))
            self.cards[name] = make_card(name, checkpoint, fingerprint(checkpoint)[0])
        return self.cards[name]

    def make(self, name: str) -> Made:
        variant = VARIANTS[name]
        folder = self.folder / "adapters" / name.replace(" ", "-")
        return build_variant(folder, variant, self.base(variant.base), list(VARIANTS).index(name))

    def predict(self, made: Made, target: str) -> list[str]:
        """The rules whose findings say that the engine does not take it: errors, and B-SHP-4, which says that a module
        that training adapted has no tensors."""
        used_on = self.card(made.variant.used_on or made.variant.base)
        subject = Subject(inspect_folder(made.folder), self.card(made.variant.base).ids, used_on, target=target)
        found = judge(subject).findings
        return sorted({one.rule for one in found if one.severity >= Severity.ERR or one.rule == "B-SHP-4"})


@pytest.fixture
def workshop(tmp_path: Path, tokenizer_folder: Path) -> Workshop:
    return Workshop(tmp_path, tokenizer_folder)


def peft_answers(shop: Workshop, names: Iterable[str]) -> dict[str, tuple[list[str], Answer]]:
    """For each variant what the audit foretells and what PEFT does."""
    found = {}
    for name in names:
        made = shop.make(name)
        found[name] = shop.predict(made, "peft"), ask_peft(made, shop.base(made.variant.used_on or made.variant.base))
    return found


def llamacpp_answers(shop: Workshop, names: Iterable[str]) -> dict[str, tuple[list[str], Answer]]:
    """For each variant what the audit foretells and what llama.cpp's converter and runtime do."""
    mades = {name: shop.make(name) for name in names}
    used = {name: made.variant.used_on or made.variant.base for name, made in mades.items()}
    bases = {name: shop.folder / f"{name}.gguf" for name in dict.fromkeys(used.values())}
    loras = {name: shop.folder / f"{name} LoRA.gguf" for name in mades}
    jobs = [convert_base(shop.base(name), path) for name, path in bases.items()]
    wrong = convert([*jobs, *(convert_lora(made, shop.base(used[name]), loras[name]) for name, made in mades.items())])
    unusable = {name for name, why in zip(bases, wrong[: len(bases)], strict=True) if why}
    assert unusable <= {"opt"}, wrong
    found = {}
    for (name, made), why in zip(mades.items(), wrong[len(bases) :], strict=True):
        answer = Answer(False, why) if why else ask_llamacpp(made, bases[used[name]], loras[name])
        found[name] = shop.predict(made, "llama.cpp"), answer
    return found


def compared(target: str, found: Mapping[str, tuple[list[str], Answer]]) -> None:
    """Print the table; every prediction must be right, but where the audit is stricter on purpose."""
    stricter = STRICTER[target]
    wrong = []
    for name, (rules, answer) in found.items():
        agrees = answer.took is not bool(rules)
        known = name in stricter and answer.took and bool(rules)
        print(f"{'=' if agrees else '>' if known else '!'} {name:26} {' '.join(rules) or 'taken':26} {answer.said}")
        if agrees is (name in stricter) or not (agrees or known):
            wrong.append(f"{name}: foretold {rules or 'taken'}, but {answer}")
    print(f"{target}: {len(found)} variants, {len(wrong)} disagreements, {len(stricter.keys() & found)} stricter on purpose")
    assert not wrong, "\n".join(wrong)


def test_what_is_foretold_of_peft_is_what_it_does(workshop: Workshop):
    compared("peft", peft_answers(workshop, PEFT_SHARE))


@needs_lora_oracle
def test_what_is_foretold_of_llamacpp_is_what_it_does(workshop: Workshop):
    compared("llama.cpp", llamacpp_answers(workshop, LLAMACPP_SHARE))


@pytest.mark.slow
def test_all_of_peft(workshop: Workshop):
    assert len(VARIANTS) >= 40 and SPOILED
    compared("peft", peft_answers(workshop, VARIANTS))


@needs_lora_oracle
@pytest.mark.slow
def test_all_of_llamacpp(workshop: Workshop):
    names = [name for name, variant in VARIANTS.items() if variant.base not in NOT_CONVERTIBLE]
    assert len(names) >= 40 and {VARIANTS[name].base for name in SOUND} <= set(BASES)
    compared("llama.cpp", llamacpp_answers(workshop, names))

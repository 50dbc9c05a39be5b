from __future__ import annotations

import shutil

import pytest

from adreg.audit.basecard import make_card
from adreg.audit.licenses import keeps
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.formats.bases.fingerprint import fingerprint
from adreg.formats.text.frontmatter import front_matter

GATED = "license: other\nlicense_name: LLaMA-9\nextra_gated_prompt: Who are you?\n"


@pytest.mark.parametrize(
    ("own", "base", "kept"),
    [
        ("mit", "apache-2.0", True), ("", "mit", True), ("mit", "", True), ("gemma", "gemma", True), ("mit", "gemma", False),
        ("cc-by-nc-sa-4.0", "cc-by-nc-4.0", True), ("cc-by-4.0", "cc-by-nc-4.0", False), ("", "cc-by-nd-4.0", False),
        ("cc-by-nd-4.0", "cc-by-nd-4.0", False), ("apache-2.0", "gpl-3.0", False), ("mit", "my-nd-terms", False),
    ],
)  # fmt: skip
def test_what_a_base_s_licence_lets_an_adapter_be_passed_on_under(own, base, kept):
    assert keeps(own, base) is kept


def test_a_base_card_has_the_licence_of_the_base_s_readme(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "base")
    (folder / "README.md").write_text(f"---\n{GATED}---\n# A model\n")
    base = open_checkpoint(folder)
    card = make_card("gated", base, fingerprint(base)[0])
    assert (card.license, card.gated) == ("llama-9", True)
    assert type(card).from_json(card.as_json()) == card


HOSTILE = (
    b"license: !!python/object/apply:os.system [true]",
    b"[" * 60_000,
    b"a: &a [*a]",
    b"? [1]: 2",
    b"!!int x",
    b"\xff\x00",
)


@pytest.mark.parametrize("front", HOSTILE)
def test_hostile_front_matter_is_text_or_nothing(front):
    found = front_matter(b"---\n" + front + b"\n---\nbody")
    assert set(found) <= {"license", "a"} and found.get("license", ["true"]) == ["true"]

from dataclasses import replace

import pytest

from adreg.errors import ConflictError, NotFoundError, UsageError, YankedError
from adreg.references import check_tag, parse_reference
from adreg.registry.manifest import Manifest
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.registry.store.leases import Lease
from adreg.registry.versions import Wanted
from adreg.settings import Settings
from tests.registry.small import small_adapter


@pytest.fixture
def voice(registry, tmp_path):
    """Three versions, the second of them `prod`."""
    for seed in range(3):
        plan = plan_push(small_adapter(tmp_path / f"{seed}", seed))
        registry.adapters.push(plan, "voice", "prod" if seed == 1 else None, None)
    return registry


def resolve(registry, text):
    return registry.adapters.resolve(parse_reference(text))


@pytest.mark.parametrize("tag", ["evaluated", "stage=test", "run=7", "v1.2"])
def test_words_and_pairs_are_tags(tag):
    assert check_tag(tag) == tag


@pytest.mark.parametrize("tag", ["", "7", "Upper", "a b", "=x", "a=", "a=b=c", "a..b", "é", "a\n", "x" * 100])
def test_everything_else_is_no_tag(tag):
    with pytest.raises(UsageError, match="no tag"):
        check_tag(tag)


def test_tags_filter_the_listing_by_the_newest_version_that_has_them(voice):
    voice.labels.tag(parse_reference("voice:1"), ["good", "stage=test"])
    voice.labels.tag(parse_reference("voice:2"), ["good"])
    listed = lambda **wanted: [row["reference"] for row in voice.adapters.listed(Wanted(**wanted))]  # noqa: E731
    assert listed(tag="good") == ["voice:2"] and listed(tag="stage=test") == ["voice:1"] and listed() == ["voice:3"]
    assert listed(name="voice", tag="good") == ["voice:2", "voice:1"]
    voice.labels.untag(parse_reference("voice:2"), ["good"])
    assert listed(tag="good") == ["voice:1"] and voice.labels.tags() == [("good", 1), ("stage=test", 1)]
    with pytest.raises(NotFoundError):
        voice.labels.untag(parse_reference("voice:1"), ["stage=test", "absent"])
    assert resolve(voice, "voice:1").tags == ("good", "stage=test")


def test_a_yanked_version_is_found_by_its_digest_only(voice):
    digest = resolve(voice, "voice:3").digest
    voice.labels.yank(parse_reference("voice:3"), "learned the test set")
    assert resolve(voice, "voice").number == 2
    with pytest.raises(YankedError, match="voice:3 was yanked: learned the test set") as caught:
        resolve(voice, "voice:3")
    assert caught.value.digest == digest
    found = resolve(voice, f"voice@{digest}")
    assert (found.number, found.yanked) == (3, "learned the test set")
    assert [row["yanked"] for row in voice.adapters.listed(Wanted("voice"))] == ["learned the test set", None, None]
    with pytest.raises(ConflictError, match="yanked"):
        voice.adapters.set_alias(parse_reference(f"voice@{digest}"), "prod")
    voice.labels.unyank(parse_reference("voice:3"))
    assert resolve(voice, "voice").number == 3 and resolve(voice, "voice").yanked is None


def test_a_yank_without_a_reason_is_a_yank(voice):
    voice.labels.yank(parse_reference("voice:3"))
    assert resolve(voice, "voice").number == 2 and voice.adapters.listed(Wanted("voice"))[0]["yanked"] == ""


def test_an_adapter_of_yanked_versions_only_has_no_newest(voice):
    for number in (1, 3):
        voice.labels.yank(parse_reference(f"voice:{number}"))
    voice.labels.yank(parse_reference("voice:2"), force=True)
    with pytest.raises(NotFoundError):
        resolve(voice, "voice")
    assert voice.adapters.all() == [] and len(voice.adapters.versions("voice")) == 3


def test_an_alias_keeps_its_version_from_being_yanked_until_it_is_dropped(voice):
    with pytest.raises(ConflictError, match="voice:prod"):
        voice.labels.yank(parse_reference("voice:2"))
    assert resolve(voice, "voice:prod").yanked is None
    voice.labels.yank(parse_reference("voice:prod"), force=True)
    assert voice.adapters.aliases("voice") == []


def test_yanked_content_does_not_come_back_by_a_push(voice, tmp_path):
    voice.labels.yank(parse_reference("voice:3"))
    with pytest.raises(ConflictError, match="yanked") as caught:
        voice.adapters.push(plan_push(tmp_path / "2"), "voice", None, None)
    assert "--undo" in caught.value.hint
    voice.adapters.pull(resolve(voice, f"voice@{voice.adapters.versions('voice')[0].digest}"), tmp_path / "out")


def test_what_travels_keeps_notes_tags_and_that_it_was_yanked(voice, tmp_path):
    reference = parse_reference("voice:3")
    voice.labels.note(reference, "better tone")
    voice.labels.tag(reference, ["stage=test"])
    voice.labels.yank(reference, "leaks names")
    sent = voice.adapters.manifest(voice.adapters.resolve(reference, yanked=True))
    assert Manifest.from_json(sent.as_json(), "here") == replace(sent, created_at=sent.created_at)
    there = Registry(Settings(tmp_path / "there"))
    with Lease(there.db, "pull") as held:
        for file in sent.files.values():
            there.blobs.put(voice.blobs.path(file.digest))
        received = there.adapters.receive(sent, None, "here", held).version
    assert (received.notes, received.tags, received.yanked) == ("better tone", ("stage=test",), "leaks names")
    assert received.origin == "here"

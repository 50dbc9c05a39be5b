from concurrent.futures import ThreadPoolExecutor

import pytest

from adreg.errors import ConflictError, NotFoundError
from adreg.references import parse_reference
from adreg.registry.aliases import Move
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from tests.registry.small import small_adapter


@pytest.fixture
def voice(registry, tmp_path):
    """Three versions, the first of them `prod`."""
    for seed in range(3):
        plan = plan_push(small_adapter(tmp_path / f"{seed}", seed))
        registry.adapters.push(plan, "voice", None if seed else "prod", None)
    return registry.adapters


def point(adapters, number, alias="prod", **move):
    return adapters.set_alias(parse_reference(f"voice:{number}"), alias, Move(**move))


def means(adapters, alias="prod"):
    return adapters.resolve(parse_reference(f"voice:{alias}")).number


@pytest.mark.parametrize("expect", [2, None, "sha256:" + "0" * 64])
def test_an_alias_that_is_not_what_was_expected_stays_and_the_error_says_what_it_is(voice, expect):
    with pytest.raises(ConflictError, match="voice:prod means version 1 now"):
        point(voice, 3, expect=expect)
    with pytest.raises(ConflictError):
        voice.remove_alias("voice", "prod", Move(expect=expect))
    assert means(voice) == 1


def test_an_alias_that_is_what_was_expected_moves(voice):
    point(voice, 2, expect=1)
    point(voice, 3, expect=voice.resolve(parse_reference("voice:2")).digest)
    point(voice, 3, "new", expect=None)
    assert (means(voice), means(voice, "new")) == (3, 3)
    with pytest.raises(ConflictError, match="does not exist now, not version 1"):
        point(voice, 3, "other", expect=1)


def test_of_many_who_expect_the_same_one_wins(voice, registry):
    def swap(number):
        try:
            point(Registry(registry.settings).adapters, 2 + number % 2, expect=1)
        except ConflictError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(swap, range(16))) == 1


def test_a_protected_alias_moves_and_vanishes_by_force_only(voice, registry, tmp_path):
    point(voice, 1, protect=True)
    blobs = sorted(path for path in registry.blobs.home.rglob("blobs/**/*") if path.is_file())
    refused = [
        lambda: point(voice, 2),
        lambda: point(voice, 2, protect=False),
        lambda: point(voice, 1, protect=False),
        lambda: voice.remove_alias("voice", "prod"),
        lambda: voice.remove("voice"),
        lambda: voice.push(plan_push(small_adapter(tmp_path / "next", 9)), "voice", "prod", None),
    ]
    for change in refused:
        with pytest.raises(ConflictError, match="protected") as caught:
            change()
        assert "--force" in caught.value.hint
    assert means(voice) == 1 and len(voice.versions("voice")) == 3
    assert blobs == sorted(path for path in registry.blobs.home.rglob("blobs/**/*") if path.is_file())
    point(voice, 1)
    point(voice, 2, force=True)
    assert [alias.protected for alias in voice.aliases("voice")] == [True] and means(voice) == 2
    voice.remove("voice", force=True)
    with pytest.raises(NotFoundError):
        voice.versions("voice")


def test_the_history_of_an_alias_says_who_moved_it_from_where_to_where(voice):
    point(voice, 2, protect=True)
    point(voice, 3, force=True)
    voice.remove_alias("voice", "prod", Move(force=True))
    point(voice, 1, "other")
    told = [(event.verb, event.detail.get("was"), event.detail.get("version")) for event in voice.log("voice", "prod")]
    assert told == [
        ("alias removed", 3, None),
        ("alias", 2, 3),
        ("alias protected", None, None),
        ("alias", 1, 2),
        ("alias", None, 1),
    ]
    assert all("@" in event.detail["actor"] for event in voice.log("voice"))


def test_a_listing_says_what_is_protected(voice):
    point(voice, 2, "dev", protect=True)
    assert [(alias.alias, alias.reference, alias.protected) for alias in voice.aliases()] == [
        ("voice:dev", "voice:2", True),
        ("voice:prod", "voice:1", False),
    ]

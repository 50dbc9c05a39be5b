import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adreg.references import parse_reference
from adreg.registry.push import plan_push
from tests.registry.small import small_adapter


@pytest.fixture
def library(registry, tmp_path):
    for seed, name in enumerate(("lighthouse", "team/harbour-pilot", "poet")):
        registry.adapters.push(plan_push(small_adapter(tmp_path / f"{seed}", seed)), name, None, None)
    registry.labels.describe("poet", "writes about a lighthouse in storms")
    registry.labels.note(parse_reference("team/harbour-pilot:1"), "tone like the old keeper's")
    registry.labels.tag(parse_reference("team/harbour-pilot:1"), ["stage=test", "evaluated"])
    return registry


def names(registry, words):
    return [hit.name for hit in registry.adapters.search(words)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("lighthouse", ["lighthouse", "poet"]),
        ("storms lighth", ["poet"]),
        ("KEEP", ["team/harbour-pilot"]),
        ("stage=test", ["team/harbour-pilot"]),
        ("evaluated pilot", ["team/harbour-pilot"]),
        ("harbour lighthouse", []),
        ("", []),
        ("?!", []),
    ],
)
def test_words_find_names_descriptions_notes_and_tags_with_names_first(library, words, found):
    assert names(library, words) == found


def test_what_was_changed_or_removed_is_no_longer_found(library):
    library.labels.describe("poet", "sonnets")
    library.labels.untag(parse_reference("team/harbour-pilot:1"), ["evaluated"])
    assert names(library, "storms") == [] and names(library, "sonn") == ["poet"] and names(library, "evaluated") == []
    library.adapters.remove("poet")
    assert names(library, "sonnets") == []


QUERY_LANGUAGE = ['"', "name:", "a OR", "NEAR(", "-x", "*", "^poet", "x AND", "(", "{a b} :", "a\0b", "'", "+", "a\ud800"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(), st.lists(st.sampled_from([*QUERY_LANGUAGE, "poet"])).map(" ".join)))
def test_no_text_is_ever_read_as_a_query_language(library, words):
    library.adapters.search(words)

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adreg.formats import canonical
from adreg.formats.canonical import canonical_json, canonical_name, canonical_names, canonical_pieces

# numbers from RFC 8785, appendix B
NUMBERS = {
    0.0: b"0", 5e-324: b"5e-324", 1.7976931348623157e308: b"1.7976931348623157e+308",
    9007199254740992.0: b"9007199254740992", 295147905179352830000.0: b"295147905179352830000",
    9.999999999999997e22: b"9.999999999999997e+22", 1e23: b"1e+23", 999999999999999700000.0: b"999999999999999700000",
    1e21: b"1e+21", 9.999999999999997e-7: b"9.999999999999997e-7", 0.000001: b"0.000001",
    333333333.3333332: b"333333333.3333332", 1e-5: b"0.00001", 1e-7: b"1e-7", -1.5: b"-1.5", -2e-6: b"-0.000002",
    100000.0: b"100000", 1e16: b"10000000000000000", -1e300: b"-1e+300", 1.25e20: b"125000000000000000000",
}  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_are_printed_as_rfc_8785_says(number):
    assert canonical_json([number]) == b"[" + NUMBERS[number] + b"]"
    assert canonical_json(-0.0) == b"0"


def test_keys_are_sorted_by_utf_16_units_on_both_paths():
    value = {"€": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "ö": 7}
    order = '{"\\r":2,"1":4,"\x80":6,"ö":7,"€":1,"\U0001f600":5,"\ufb33":3'
    assert canonical_json(value) == (order + "}").encode()
    assert canonical_json({**value, "\uffff": 0.5}) == (order + ',"\uffff":0.5}').encode()


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "base_model.model.model.layers.0.mlp.up_proj.weight",
                                  "_orig_mod.module.language_model.model.layers.0.mlp.up_proj.weight"])  # fmt: skip
def test_wrappers_do_not_change_a_canonical_name(name):
    assert canonical_name(name) == "layers.0.mlp.up_proj.weight"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS
VALUES = st.recursive(
    PLAIN | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(TEXTS, inner, max_size=8),
    max_leaves=30,
)


def slowly(value):
    """Canonical JSON by its definition, one value at a time."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return b"{" + b",".join(slowly(key) + b":" + slowly(value[key]) for key in keys) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(slowly, value)) + b"]"
    return canonical_json([value])[1:-1] if isinstance(value, float) else json.dumps(value, ensure_ascii=False).encode()


@given(VALUES)
def test_whole_or_in_pieces_it_is_what_the_definition_says(value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canonical, "PIECE", 3)
        assert b"".join(canonical_pieces(value)) == canonical_json(value) == slowly(value)


def test_tensors_that_would_share_a_canonical_name_keep_their_own():
    names = ["model.a.weight", "language_model.model.b.weight", "model.b.weight"]
    assert canonical_names(names) == {names[0]: "a.weight", names[1]: names[1], names[2]: names[2]}

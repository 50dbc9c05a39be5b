from __future__ import annotations

import re
import time

import pytest

from adreg.formats.adapters.expressions import weight_of
from adreg.formats.adapters.matching import matching
from adreg.formats.adapters.values import MAX_WEIGHT

NAMES = [f"model.layers.{layer}.self_attn.{end}_proj" for layer in range(100) for end in "qkv"]
LIGHT, HEAVY = r".*\.(q_proj|v_proj)", r"(?:.*?(?:layers|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)"


@pytest.mark.parametrize("expression", [LIGHT, HEAVY, r"model\.layers\.[0-4]\.self_attn\.k_proj", "nothing"])
def test_it_is_what_python_s_own_fullmatch_says(expression):
    assert matching(expression, NAMES) == frozenset(name for name in NAMES if re.fullmatch(expression, name))


def test_an_expression_that_takes_long_is_given_up():
    slow = r"(.*)(.*)(.*)(.*).?.?.?.?[.]x"
    assert weight_of(slow) <= MAX_WEIGHT
    began = time.monotonic()
    assert matching(slow, NAMES) is None and time.monotonic() - began < 10
    assert matching("[", NAMES) is None

"""The sample project that mypy and pyright read in `make lint`: it uses every public name."""

import re
from pathlib import Path

import pytest
from django.db.models import Model
from django.dispatch import Signal
from django.views.generic import View

import ds_broadcaster
from ds_broadcaster import BroadcastChannelView, BroadcastOnSave, broadcast, signals, testing
from tests.cookbook.test_docs import INTERNAL, attributes, public

SAMPLE = "".join(path.read_text() for path in sorted((Path(__file__).parent / "typed").glob("*.py")))

PATTERNS = [
    *(rf"\b{name}\b" for name in ds_broadcaster.__all__),
    *(rf"\b{name}\b" for name in testing.__all__),
    *(rf"broadcast\.{name}\(" for name in public(dir(broadcast)) - INTERNAL),
    *(rf"\b{name}\b" for name in attributes(BroadcastChannelView, View) | attributes(BroadcastOnSave, Model)),
    *(rf"\b{name}\b" for name, value in vars(signals).items() if isinstance(value, Signal)),
]


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_sample_project_uses_every_public_name(pattern):
    assert re.search(pattern, SAMPLE)

"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

import superrl

PACKAGE = Path(superrl.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(("superrl", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0

"""Every mutant still has its place, one in its file, and the tests that are to notice it."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "experiments" / "benchmarks"))
    MUTANTS = importlib.import_module("mutants").MUTANTS
    del sys.modules["mutants"]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_has_one_place_and_is_python(name):
    mutant = MUTANTS[name]
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.applied(text) != text
    compile(mutant.applied(text), mutant.file, "exec")


@pytest.mark.parametrize("name", MUTANTS)
def test_the_tests_that_are_to_notice_a_mutant_are_there(name):
    for test in MUTANTS[name].tests:
        file, _, function = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {function.split('[')[0]}" + "(" * bool(function) in text


def test_a_mutant_without_a_place_is_refused():
    mutant = next(iter(MUTANTS.values()))
    for text in ("", mutant.old * 2):
        with pytest.raises(ValueError, match="not one"):
            mutant.applied(text)

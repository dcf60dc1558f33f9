"""Old names of modules lead to the new ones, and to nothing before they are asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import purejaxppo as pjp
from purejaxppo import _moved


@pytest.mark.parametrize(("old", "new"), _moved.MOVED.items())
def test_an_old_name_is_the_module_of_the_new_one(old: str, new: str) -> None:
    module = importlib.import_module(old)
    assert module is importlib.import_module(new)
    assert module.__name__ == new
    assert module.__spec__ is not None
    assert module.__spec__.name == new
    package, _, name = old.rpartition(".")
    assert getattr(importlib.import_module(package), name) is module


def test_the_ways_in_which_people_write_it() -> None:
    code = (
        "import sys, purejaxppo as pjp\n"
        "assert not any(name.startswith(('purejaxppo.statistics', 'purejaxppo.results')) for name in sys.modules)\n"
        "pjp.analysis.collapse.EVENTS, pjp.analysis.detect_collapse, pjp.diagnostics.registry.METRICS\n"
        "import purejaxppo.analysis.statistics\n"
        "purejaxppo.analysis.statistics.iqm\n"
        "import purejaxppo.analysis.plotting as plotting\n"
        "from purejaxppo.analysis import boxes, iqm\n"
        "from purejaxppo.analysis.summary import format_value, summary_table\n"
        "assert boxes is pjp.plots.boxes and iqm is pjp.statistics.iqm and plotting is pjp.plots.curves\n"
        "assert not {'jax', 'matplotlib'} & sys.modules.keys()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("room", ["analysis", "results", "statistics", "claims", "plots"])
def test_rooms_offer_what_they_list(room: str) -> None:
    package = getattr(pjp, room)
    assert set(package.__all__) <= set(dir(package))
    for name in dir(package):
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match=f"'purejaxppo.{room}' has no attribute 'nothing'"):
        _ = package.nothing


def test_there_is_one_finder_and_other_names_stay_unknown() -> None:
    _moved.install()
    assert sum(isinstance(finder, _moved.Forwarder) for finder in sys.meta_path) == 1
    with pytest.raises(ModuleNotFoundError, match=r"purejaxppo\.analysis\.nothing"):
        importlib.import_module("purejaxppo.analysis.nothing")

"""Where figures and tables are written: names of their own for chosen runs, and folders given to --out."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from test_plots_figures import made_up

from purejaxppo.commands import output, reading
from purejaxppo.errors import ConfigError
from purejaxppo.plots import files
from purejaxppo.plots.conditions import conditions_suffix, parse_where
from purejaxppo.results.dataset import save


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A folder of results that is the working directory."""
    monkeypatch.chdir(tmp_path)
    save(made_up({"pfo_coef": [0.0, 1.0]}, num_seeds=2, num_logs=4), tmp_path / "results.nc")
    return tmp_path / "results.nc"


@pytest.fixture
def written(monkeypatch):
    """Names and captions of the figures that would be written."""
    found = []

    def keep(figure, path):
        found.append((str(path), figure.get_label()))
        return [Path(path)]

    monkeypatch.setattr(files, "save_figure", keep)
    return found


def test_figures_of_chosen_runs_do_not_replace_those_of_all(sweep, written):
    reading.plot((sweep,), metric=("entropy",))
    reading.plot((sweep,), metric=("entropy",), where=("pfo_coef=1",))
    reading.plot((sweep,), figure="2", where=("pfo_coef=1", "seed=0,1"))
    assert [Path(name).name for name, _ in written] == [
        "entropy.png",
        "entropy_pfo_coef=1.png",
        "figure2_pfo_coef=1_seed=0+1.png",
    ]
    assert ["2 of 4 runs, only pfo_coef = 1" in caption for _, caption in written] == [False, True, True]


def test_names_of_conditions_are_short_and_safe():
    assert conditions_suffix(parse_where([])) == ""
    assert conditions_suffix(parse_where(["env=own:Env/é?,b", "pfo_coef=-1e-3"])) == "_env=own-Env---+b_pfo_coef=-1e-3"
    longs = [conditions_suffix(parse_where([f"{'x' * 70}={value}"])) for value in (1, 2)]
    assert longs[0] != longs[1]
    assert all(len(long) == 70 for long in longs)


def test_a_folder_as_out_gets_files_under_their_own_names(sweep, written, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    for out in (Path(), folder, Path("..") / tmp_path.name, Path("other.png")):
        output.save_parts(None, (sweep,), "entropy", lambda _: Figure(), out, is_apart=False)
    reading.toy(folder, steps=2)
    assert [Path(name).resolve().relative_to(tmp_path).as_posix() for name, _ in written] == [
        *("entropy.png", "folder/entropy.png", "entropy.png", "other.png", "folder/figure5.png"),
    ]
    reading.summary((sweep,), out=folder)
    reading.compare((sweep,), metric="entropy", out=folder)
    assert sorted(path.name for path in folder.iterdir()) == ["compare_entropy.csv", "summary.csv"]


@pytest.mark.parametrize("path", [".", "..", "a/.."])
def test_a_path_without_a_name_is_refused(path):
    with pytest.raises(ConfigError, match=r"path is '.*', but must end in the name of a file"):
        files.save_figure(Figure(), path)

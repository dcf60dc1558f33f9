"""Diagnostics and all that reads results need no trainer: no gymnax, brax, distrax; and the recipe for PureJaxRL."""

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest

import purejaxppo as pjp

ROOT = Path(__file__).parent.parent
SCRIPT, RECIPES = ROOT / "tests" / "purejaxrl_style.py", ROOT / "experiments" / "recipes.md"
# What `purejaxppo[trainer]` brings and flax or matplotlib do not.
BLOCKED = ("gymnax", "brax", "mujoco", "distrax", "tensorflow_probability", "chex", "tensorboardX", "tqdm")
BLOCK = f"""
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Missing())
"""


def python(folder: Path, code: str, *arguments: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which the trainer's packages are not there."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def check_what_the_recipe_leaves(folder: Path) -> None:
    dataset = pjp.load_results(folder / "runs" / "theirs")
    assert dict(dataset.sizes) == {"run": 4, "log": 12, "D": 64}
    assert dataset["env_steps"].values.tolist() == [512 * log for log in range(1, 13)]
    for name in ("policy_rank", "policy_dead_neurons", "policy_preactivation_norm", "policy_singular_values"):
        assert np.isfinite(dataset[name].values).all(), name
    assert ((dataset["policy_rank"] >= 1) & (dataset["policy_rank"] <= 64)).all()
    returns = dataset["return_mean"].values
    assert np.nanmean(returns[:, -3:]) > np.nanmean(returns[:, :3])  # it learns


def test_everything_that_reads_and_measures_is_imported_without_the_trainer(tmp_path: Path) -> None:
    code = """
import pkgutil, purejaxppo, importlib
names = [m.name for m in pkgutil.walk_packages(purejaxppo.__path__, "purejaxppo.")]
light = ("diagnostics", "results", "statistics", "claims", "plots", "plot", "report", "analysis", "errors", "config")
light += ("hyperparams", "metrics", "blas", "presets")
for name in names:
    if name.split(".")[1] in light:
        importlib.import_module(name)
import purejaxppo as pjp, numpy as np
assert pjp.diagnostics.dead_neurons(np.zeros((5, 3), np.float32), "relu") == 3
assert float(pjp.diagnostics.spectral_measures(np.eye(4, dtype=np.float32)).effective_rank).__round__(4) == 4
pjp.load_results, pjp.concat, pjp.import_metrics, pjp.tidy, pjp.merge, pjp.Sweep
"""
    process = python(tmp_path, code)
    assert process.returncode == 0, process.stderr


def test_the_recipe_runs_without_the_trainer_and_the_commands_read_what_it_leaves(tmp_path: Path) -> None:
    code = "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    process = python(tmp_path, code, str(SCRIPT), str(RECIPES))
    assert process.returncode == 0, process.stderr
    check_what_the_recipe_leaves(tmp_path)
    command = "from purejaxppo.__main__ import main; main()"
    process = python(tmp_path, command, "summary", "runs/theirs")
    assert process.returncode == 0, process.stderr
    assert " of 4 [" in process.stdout


def test_training_without_the_trainer_is_one_sentence(tmp_path: Path) -> None:
    arguments = ["train", "--env", "gymnax/CartPole-v1", "--total-steps", "256", "--num-steps", "32"]
    process = python(tmp_path, "from purejaxppo.__main__ import main; main()", *arguments)
    assert process.returncode == 2, process.stderr
    last = process.stderr.strip().splitlines()[-1]
    assert "is not installed, but training needs it: pip install 'purejaxppo[trainer]'" in last
    assert "Traceback" not in process.stderr


def test_the_packages_of_the_trainer_are_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    light = " ".join(project["dependencies"])
    trainer = " ".join(project["optional-dependencies"]["trainer"])
    for name in ("gymnax", "brax", "distrax", "chex", "tensorboardX", "tqdm"):
        assert name not in light
        assert name in trainer
    for extra in ("cuda12", "cuda13", "tpu", "test", "notebooks", "aot-cuda", "aot-tpu"):
        assert any("trainer" in item for item in project["optional-dependencies"][extra]), extra


@pytest.mark.slow
def test_installed_alone_beside_gymnax_009_the_recipe_runs(tmp_path: Path) -> None:
    """Needs the network: a fresh environment with the package without extras, and the gymnax that PureJaxRL uses."""
    venv.create(tmp_path / "venv", with_pip=True)
    own = tmp_path / "venv" / "bin" / "python"
    install = [own, "-m", "pip", "install", "-q", str(ROOT), "gymnax==0.0.9", "six"]  # six: gymnax does not say it
    installed = subprocess.run(install, capture_output=True, text=True, timeout=1800)
    if installed.returncode and "Could not find a version" in installed.stderr + installed.stdout:
        pytest.skip("no package index")
    assert installed.returncode == 0, installed.stderr
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [own, "-W", "ignore", str(SCRIPT), str(RECIPES), "CartPole-v1"]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    check_what_the_recipe_leaves(tmp_path)
    for missing in ("brax", "distrax", "tqdm"):
        assert subprocess.run([own, "-c", f"import {missing}"], capture_output=True).returncode != 0

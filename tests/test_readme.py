"""What the README says is what the code says. `python tests/test_readme.py` writes the generated parts anew."""

import re
from pathlib import Path
from typing import Any

import jax
import pytest

import purejaxppo as pjp
from purejaxppo.envs.names import CUSTOM
from purejaxppo.results.registry import HEADLINE, METRICS

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"(<!-- metrics: [^\n]*-->\n).*?(<!-- end of metrics -->)", re.DOTALL)


def metrics_table() -> str:
    """The headline metrics, without sources, one line each."""
    rows = [(m.name, m.units or "", m.definition.replace("|", "\\|")) for m in (METRICS[name] for name in HEADLINE)]
    lines = [f"| `{name}` | {units} | {definition} |" for name, units, definition in rows]
    return "\n".join(["| name | units | definition |", "|---|---|---|", *lines]) + "\n"


def test_the_metrics_table_is_the_registrys() -> None:
    found = BLOCK.search(README.read_text(encoding="utf-8"))
    assert found
    assert found[0] == f"{found[1]}{metrics_table()}{found[2]}"


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target


def test_the_notebooks_block_works_as_one_cell() -> None:
    """Cores are asked for before JAX computes anything, or they are not given."""
    text = README.read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "use_cpu_cores" in block]
    compile(code, "README.md", "exec")
    for name in re.findall(r"pjp\.(\w+)", code):
        assert hasattr(pjp, name), name
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "#"))]
    assert lines[0].startswith("pjp.use_cpu_cores()")


def test_the_environment_of_ones_own_trains_and_is_solved() -> None:
    """Always right from the middle of the corridor pays 1; a random walk gets half of it."""
    text = README.read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Corridor" in block]
    names: dict[str, Any] = {}
    try:
        exec(code, names)
        metrics = jax.jit(names["train"])(pjp.HyperParams(learning_rate=1e-3), jax.random.key(0)).metrics
        assert "mine/Corridor" in pjp.envs.list_environments()
        assert pjp.envs.make("mine/Corridor", max_episode_steps=7).max_episode_steps == 7
    finally:
        CUSTOM.clear()
    assert 0.3 < metrics["return_mean"][0] < 0.95
    assert metrics["return_mean"][-1] > 0.99


@pytest.mark.parametrize("name", ["gymnax/Mine", "brax/mine", "probe/X", "mine", "mine/", "/x", "a/b/c", "a b/c"])
def test_names_of_ones_own_environments_have_a_suite_of_their_own(name: str) -> None:
    with pytest.raises(pjp.ConfigError, match=r"^env name is .*, but must be suite/Environment"):
        pjp.envs.register(name, lambda limit: pjp.envs.make("gymnax/CartPole-v1"))
    assert not CUSTOM


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda found: f"{found[1]}{metrics_table()}{found[2]}", text), encoding="utf-8")

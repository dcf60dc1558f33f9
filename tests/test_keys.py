"""No random key is used twice: every use of a key while a run starts, learns once and is measured, by its bits."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from tiny_envs import with_walk

import purejaxppo as pjp
from purejaxppo.ppo import start
from purejaxppo.ppo.state import make_learner
from purejaxppo.training import evaluation
from purejaxppo.training.plasticity import make_task, plasticity_losses
from purejaxppo.training.train import segment

DRAWS = ("bits", "uniform", "normal", "randint", "categorical", "bernoulli", "rademacher")
Use = tuple[bytes, str, int]
"""A key, what was done with it, and of `split` the number of children, of `fold_in` the data."""


def conflicts(uses: list[Use]) -> list[Use]:
    """Uses of a key that was used before: a draw excludes all else; children and folded numbers must differ."""
    children: dict[bytes, set[Any]] = defaultdict(set)
    found = []
    for key, what, number in uses:
        new = {"draw"} if what in DRAWS else set(range(number)) if what == "split" else {number}
        old = children[key]
        if old & new or (old and "draw" in old | new):
            found.append((key, what, number))
        old |= new
    return found


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> list[Use]:
    """All uses of keys by programs that are traced while the fixture lives, in the order in which they run."""
    record: list[Use] = []

    def spy(what: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def spied(key: jax.Array, *arguments: Any, **options: Any) -> Any:
            number = arguments[0] if what == "fold_in" else (arguments or [2])[0] if what == "split" else 0

            def note(data: np.ndarray, number: np.ndarray) -> None:
                record.append((data.tobytes(), what, int(number)))

            jax.debug.callback(note, jax.random.key_data(key), number)
            return original(key, *arguments, **options)

        return spied

    for what in (*DRAWS, "split", "fold_in"):
        monkeypatch.setattr(jax.random, what, spy(what, getattr(jax.random, what)))
    monkeypatch.setattr(start, "_RANDOM_STEPS", 20)
    monkeypatch.setattr(start, "_LEAST_RANDOM_STEPS", 10)
    return record


def test_a_second_use_is_found() -> None:
    one, other = b"1", b"2"
    assert not conflicts([(one, "split", 4), (one, "fold_in", 4), (other, "normal", 0)])
    for again in [(one, "split", 2), (one, "fold_in", 3), (one, "normal", 0), (other, "fold_in", 9)]:
        assert conflicts([(one, "split", 4), (other, "normal", 0), again]) == [again]


def test_no_key_is_used_twice_by_a_start_an_update_random_play_evaluations_and_a_plasticity_task(
    uses: list[Use],
) -> None:
    """The task plays on from the run's initial state, which it makes again; nothing else of the run is in it."""
    config = pjp.TrainConfig(
        env="tiny/Walk", total_steps=16, num_envs=2, num_steps=8, minibatch_size=8, num_epochs=2, hidden_sizes=(4,),
        num_log_points=1, normalize_observations="fixed", time_aware=True, sticky_actions=0.25,
        num_plasticity_rollouts=2, num_plasticity_epochs=2, num_evaluation_episodes=2,
    )  # fmt: skip
    learner, key, hparams = with_walk(make_learner, config), jax.random.key(7), pjp.HyperParams()

    def used_by(function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[Use]]:
        result = jax.block_until_ready(jax.jit(partial(function, learner))(*arguments))
        jax.effects_barrier()
        found = list(uses)
        uses.clear()
        return result, found

    state, of_start = used_by(start.init_run, key)
    (after, _), of_segment = used_by(segment, hparams, state)
    evaluations = [use for moment in (state, after) for use in used_by(evaluation.measure, moment)[1]]
    # The run's key for evaluations, made for each of them, and folded with the number of updates.
    branch = (np.asarray(jax.random.key_data(state.key)).tobytes(), "fold_in", evaluation.EVALUATION)
    assert evaluations.count(branch) == 2
    evaluations = [branch, *(use for use in evaluations if use != branch)]
    task, of_task = used_by(make_task, hparams, key)
    _, of_measurement = used_by(plasticity_losses, hparams, state, task)
    assert set(of_start) | set(of_measurement) <= set(of_task)  # in which initial networks are fitted alike
    of_task = [use for use in of_task if use not in {*of_start, *of_measurement}]
    assert min(map(len, (of_start, of_segment, of_task, of_measurement, evaluations))) > 0
    assert sum(what == "randint" for _, what, _ in of_start) == 20  # random play
    assert not conflicts(of_start + of_segment + of_task + of_measurement + evaluations)

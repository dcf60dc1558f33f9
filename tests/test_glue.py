"""Where parts meet: what a run's own setting decides must reach the part that asks for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.sweep.engine import run_sweep
from purejaxppo.sweep.plan import Sweep, make_groups, parse_sweep
from purejaxppo.sweep.policies import load_policies
from purejaxppo.sweep.program import GroupProgram, learner_of
from purejaxppo.training.train import make_trainer

CONFIG = pjp.TrainConfig(
    env="gymnax/CartPole-v1", total_steps=32, num_envs=2, num_steps=16, minibatch_size=16, num_epochs=1,
    hidden_sizes=(5,), num_log_points=1,
)  # fmt: skip
# Of units with pre-activations of about 100, 0 and three times -100: tanh is dead where it does not vary, leaky ReLU
# where it is below 0; by the rule of ReLU, which is 0 everywhere, none would be.
DEAD = {"tanh": 4, "leaky_relu": 3}


@pytest.mark.parametrize("activation", DEAD)
def test_dead_units_are_counted_by_the_rule_of_the_runs_activation(activation):
    hparams = pjp.HyperParams()
    trainer = make_trainer(dataclasses.replace(CONFIG, activation=activation))
    state = jax.jit(trainer.init)(hparams, jax.random.key(0))
    bias = jnp.array([100.0, 0.0, -100.0, -100.0, -100.0])
    layer = state.params["policy"]["hidden_0"] | {"bias": bias}
    params = state.params | {"policy": state.params["policy"] | {"hidden_0": layer}}
    metrics = jax.jit(trainer.segment)(hparams, state.replace(params=params), 0)[1]
    assert metrics["policy_dead_neurons"] == DEAD[activation]


def test_a_term_is_left_out_where_no_run_of_a_program_has_it():
    """Of two runs one has PFO, and another one an entropy bonus; nobody has the critic's PFO."""
    points = [{"pfo_coef": 0.0, "entropy_coef": 0.01}, {"pfo_coef": 1.0, "entropy_coef": 0.0}]
    (group,) = make_groups(parse_sweep({"hparams": {"critic_pfo_coef": 0.0}, "points": points}))
    absent = learner_of(group).absent
    assert "critic_pfo_loss" in absent
    assert not absent & {"policy_loss", "value_loss", "entropy_loss", "pfo_loss"}


def test_runs_that_fill_up_a_chunk_are_in_no_result(tmp_path):
    """Three runs on two devices are computed as four."""
    sweep = Sweep(name="three", seeds=(4, 0, 7), config=dataclasses.replace(CONFIG, diagnostics=False))
    assert GroupProgram(make_groups(sweep)[0]).width == 4
    dataset = run_sweep(sweep, tmp_path / "out", is_quiet=True)
    assert dataset["seed"].values.tolist() == [4, 0, 7]
    losses = dataset["policy_loss"].isel(log=1).values
    assert losses.shape == (3,)
    assert len(set(losses.tolist())) == 3
    assert [run.seed for policies in load_policies(tmp_path / "out") for run in policies.runs] == [4, 0, 7]
    assert np.isfinite(losses).all()

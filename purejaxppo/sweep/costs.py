"""What a group's program costs: single updates, diagnoses and plasticity measurements of a few runs, timed and scaled.

A log point can be thousands of updates, so none is ever computed here. On a CPU runs are computed a few at a time, one
such block after the other (`program.runs_at_once`): one block is timed, on every device. Elsewhere all runs are.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from purejaxppo import blas
from purejaxppo.config import TrainConfig
from purejaxppo.ppo.state import Array
from purejaxppo.sweep.program import Arguments, GroupProgram, learner_of, map_runs, runs_at_once
from purejaxppo.training.diagnosis import diagnose_update, diagnosed_together
from purejaxppo.training.train import Iteration, iterate

_ENOUGH, _PATIENCE = 1.0, 15.0  # seconds: a timing that is shorter is repeated; an update that is longer is not made


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of one chunk of a program, all of its runs together."""

    rollout: float
    """A rollout, with values and advantages."""
    epoch: float
    """One epoch over it."""
    diagnosis: float
    """The diagnostics of a log point."""
    plasticity: float
    """One measurement of the plasticity loss."""
    evaluation: float = 0.0
    """One evaluation, in which some episode goes on to the time limit."""

    def of_runs(self, config: TrainConfig, num_epochs: int) -> dict[str, float]:
        """Seconds of a chunk's runs from beginning to end, log point 0 included, by what they go into.

        Off a CPU log point 0 has all epochs too, masked.
        """
        logs, masked = range(config.num_logs + 1), 0 if blas.is_cpu() else config.updates_per_log
        return {
            "rollouts": (config.num_updates + config.updates_per_log) * self.rollout,
            "epochs": (config.num_updates + masked) * num_epochs * self.epoch,
            "diagnostics": (config.num_logs + 1) * self.diagnosis,
            "plasticity": sum(map(config.is_plasticity_point, logs)) * self.plasticity,
            "evaluation": sum(map(config.is_evaluation_point, logs)) * self.evaluation,
        }


def measure(program: GroupProgram, say: Callable[[str], Any] = lambda line: None) -> Costs:
    """The costs of a chunk of a compiled program; it compiles an update and a diagnosis by themselves.

    say: gets a line when they are compiled.
    """
    group, config = program.group, program.group.config
    first, stop = group.spans[0]
    state = program.shapes(program.arguments(group.runs[first : min(first + program.width, stop)]))
    width = program.num_devices
    if blas.is_cpu():  # blocks of this many runs on each device, one after the other
        of_device = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((x.shape[0] // program.num_devices, *x.shape[1:]), x.dtype), state
        )
        width *= runs_at_once(config, of_device)
    else:
        width = program.width
    narrow = program if width == program.width else GroupProgram(group, width)
    runs = narrow.arguments(group.runs[first : min(first + width, stop)])
    scale = program.width / width
    update, diagnose = _compiled_pieces(narrow, runs)
    plasticity = _compiled_plasticity(narrow, runs) if config.measures_plasticity else None
    say("compiled its parts; timing them")
    state, longest = narrow.init(runs), max(run.config.num_epochs for run in group.runs)
    rollout = _seconds(lambda: update(runs.hparams, state, jnp.int32(0)))
    epochs = 1
    epoch = max(_seconds(lambda: update(runs.hparams, state, jnp.int32(1))) - rollout, 0.0)
    if longest > 1 and rollout + longest * epoch < _PATIENCE:  # a difference of more epochs is a better one
        epochs = longest
    whole = _seconds(lambda: update(runs.hparams, state, jnp.int32(epochs)))
    after, iteration = update(runs.hparams, state, jnp.int32(1))
    return Costs(
        rollout=scale * rollout,
        epoch=scale * max(whole - rollout, 0.0) / epochs,
        diagnosis=scale * _seconds(lambda: diagnose(runs.hparams, after, iteration)) if config.diagnostics else 0.0,
        plasticity=scale * _seconds(lambda: plasticity(state)) if plasticity else 0.0,
        evaluation=scale * _evaluation_seconds(narrow, runs, state) if config.num_evaluation_episodes else 0.0,
    )


def _compiled_pieces(program: GroupProgram, runs: Arguments) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """An update with any number of epochs, and the diagnosis of one, of all runs of a program; compiled."""
    learner = dataclasses.replace(learner_of(program.group), max_epochs=None)
    config = learner.config
    # Minibatches are measured in the last update before a log point.
    is_measured = config.updates_per_log == 1
    by_run, shared = PartitionSpec("runs"), PartitionSpec()

    def update(hparams: Any, state: Any, num_epochs: Array) -> Any:
        def one(run: Any) -> Any:
            return iterate(learner, run[0], num_epochs, run[1], jnp.bool_(is_measured))

        return map_runs(one, (hparams, state), runs_at_once(config, state))

    def diagnose(hparams: Any, after: Any, last: Iteration) -> Any:
        in_blocks = blas.in_blocks(partial(diagnose_update, learner), diagnosed_together(learner))

        def one(run: Any) -> Any:
            return in_blocks(run[0], run[2].before, run[1], run[2].batch)

        return map_runs(one, (hparams, after, last), runs_at_once(config, after))

    def compiled(function: Any, *arguments: Any, num_shared: int = 0) -> Any:
        specs = [by_run] * (len(arguments) - num_shared) + [shared] * num_shared
        mapped = jax.shard_map(
            function, mesh=program.sharding.mesh, in_specs=tuple(specs), out_specs=by_run, check_vma=False
        )
        with jax.default_matmul_precision("highest"):
            lowered = jax.jit(mapped).lower(*arguments)
        return _compile(lowered), lowered.out_info

    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=program.sharding), program.shapes(runs)
    )
    first, found = compiled(update, runs.hparams, state, jax.ShapeDtypeStruct((), jnp.int32), num_shared=1)
    if not config.diagnostics:
        return first, first
    after, iteration = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=program.sharding), tuple(found)
    )
    return first, compiled(diagnose, runs.hparams, after, iteration)[0]


def _compiled_plasticity(program: GroupProgram, runs: Arguments) -> Callable[[Any], Any]:
    """A measurement of all runs of a program at a state; compiled, and its tasks made."""
    if (compiled := program.compiled("plasticity")) is None:
        compiled = _compile(program.lower("plasticity", runs))
    tasks = jax.block_until_ready(program.tasks(runs))
    return lambda state: compiled(runs.hparams, state, tasks)


def _evaluation_seconds(program: GroupProgram, runs: Arguments, state: Any) -> float:
    """Seconds of an evaluation of all runs of a program in which some episode goes on to the time limit.

    It is timed by the step, as episodes of untrained policies may be short.
    """
    if (compiled := program.compiled("evaluation")) is None:
        compiled = _compile(program.lower("evaluation", runs))
    limit = learner_of(program.group).env.max_episode_steps
    assert limit is not None, "`make_learner` has seen to it"
    longest = float(compiled(state)["evaluation_length_max"].max())
    return _seconds(lambda: compiled(state)) * limit / longest


def _compile(lowered: Any) -> Any:
    options: Any = {"xla_backend_optimization_level": 1} if blas.is_cpu() else {}  # as `GroupProgram` does
    return lowered.compile(compiler_options=options)


def _seconds(compute: Callable[[], Any]) -> float:
    """Seconds of one call: the first if it is long, which says all; else the shortest of a few, which are warm."""
    found: list[float] = []
    while not found or (sum(found) < _ENOUGH and len(found) < 5):
        begin = time.perf_counter()
        jax.block_until_ready(compute())
        found.append(time.perf_counter() - begin)
    return min(found)

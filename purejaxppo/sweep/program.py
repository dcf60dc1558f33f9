"""The compiled program of a group of runs: vmapped, a few runs at a time on a CPU, and split over the local devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from purejaxppo.blas import is_cpu
from purejaxppo.config import TrainConfig
from purejaxppo.hyperparams import HyperParams, strengths_of
from purejaxppo.metrics import Metrics
from purejaxppo.ppo.losses import COEFFICIENTS
from purejaxppo.ppo.state import Array, Learner, RunState, make_learner
from purejaxppo.sweep.memory import bytes_of, needed_memory
from purejaxppo.sweep.plan import Group, Run
from purejaxppo.training.plasticity import PlasticityTask, make_task
from purejaxppo.training.train import trainer_of

_FEW, _PREPARED = 16, 2**31  # runs that are prepared side by side, or on an accelerator as many as take these bytes


def learner_of(group: Group, *, is_mixed: bool | None = None) -> Learner:
    """The static parts of a group's program: what its runs differ in is selected, what no run uses is left out.

    On a CPU all runs of a call have the same number of epochs; elsewhere, and where a call `is_mixed`, the loop has one
    length and runs are masked.
    """
    is_mixed = not is_cpu() if is_mixed is None else is_mixed
    alternatives = group.alternatives
    absent = {term for term, name in COEFFICIENTS.items() if all(getattr(run.hparams, name) == 0 for run in group.runs)}
    # Of a penalty of the user's own, NAME_loss, it is NAME_coef.
    strengths = [strengths_of(run.hparams) for run in group.runs]
    zero = {name for name in strengths[0] if name.endswith("_coef") and all(run[name] == 0 for run in strengths)}
    absent |= {f"{name.removesuffix('_coef')}_loss" for name in zero}
    epochs = max(run.config.num_epochs for run in group.runs)
    return make_learner(
        group.config,
        alternatives=tuple(alternatives.items()),
        absent=frozenset(absent),
        max_epochs=epochs if is_mixed else None,
    )


def runs_at_once(config: TrainConfig, state: RunState) -> int:
    """How many of a device's runs are to be computed side by side: all of them; on a CPU as many as its cache likes.

    The largest divisor of their number up to 4, or as many as step 16 environments together where each has few, and
    only as many as have weights, gradients and moments of 4 MiB together, and observations and activations of a
    minibatch of 2 MiB. Narrower means more calls (a step of brax' hopper is 400 small kernels, whatever the number of
    environments), wider means that each step's data have left the cache when the next needs them.
    """
    num_runs = state.status.shape[0]
    if not is_cpu():
        return num_runs
    weights = 4 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params)) // num_runs
    # Observations are [run, env, *obs]; both networks' hidden units.
    of_sample = math.prod(state.obs.shape[2:]) + sum(config.hidden_sizes) + sum(config.critic_sizes)
    minibatch = 4 * config.minibatch_size * of_sample

    def fits(width: int) -> bool:
        return width * weights <= 2**22 and width * minibatch <= 2**21

    widths = range(1, max(4, 16 // config.num_envs) + 1)
    return max(width for width in widths if num_runs % width == 0 and (width == 1 or fits(width)))


def prepared_at_once(learner: Learner) -> int:
    """How many runs' random play and plasticity tasks are made side by side: they are larger than a run's state."""
    config = learner.config
    of_sample = 4 * (math.prod(learner.env.observation_shape) + sum(config.hidden_sizes) + sum(config.critic_sizes))
    of_run = config.num_plasticity_rollouts * config.batch_size * of_sample
    return _FEW if is_cpu() else max(_FEW, _PREPARED // of_run)


def map_runs(function: Callable[[Any], Any], runs: Any, width: int) -> Any:
    """`function` over the leading axis of `runs`: `width` runs side by side by vmap, one such group after the other."""
    num_runs = jax.tree.leaves(runs)[0].shape[0]
    if width == num_runs:
        return jax.vmap(function)(runs)
    return jax.lax.map(function, runs, batch_size=width if width > 1 else None)


def _anew(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, arguments of no elements being made anew: jax 0.11's compiler for CPUs crashes on given ones."""

    def anew(x: Array) -> Array:
        return x if x.size else jnp.zeros(x.shape, x.dtype)

    return lambda *given: function(*jax.tree.map(anew, given))


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What a program takes of the runs that it computes together, [S] each.

    choices: of each field in which runs of the group differ, which of its alternatives each run has.
    """

    hparams: HyperParams
    keys: Array
    choices: dict[str, Array]
    num_epochs: np.ndarray


class GroupProgram:
    """A group's compiled programs for `width` runs at a time, vmapped and split over the local devices.

    The number of epochs is an argument: on a CPU one number for all runs of a call, elsewhere (and if it `is_mixed`)
    one a run. Chunks with fewer runs are padded (the last run repeated), and padding is dropped from every result.
    """

    def __init__(self, group: Group, width: int | None = None, devices: Any = None, *, is_mixed: bool | None = None):
        self.group = group
        devices = (devices or jax.local_devices())[: width or len(group.runs)]
        self.width = width or -(-len(group.runs) // len(devices)) * len(devices)
        while self.width % len(devices):  # a width laid down for other devices
            devices = devices[:-1]
        self.num_devices = len(devices)
        mesh = Mesh(np.asarray(devices), ("runs",))
        self.sharding = NamedSharding(mesh, PartitionSpec("runs"))
        self._learner = learner_of(group, is_mixed=is_mixed)
        trainer, config = trainer_of(self._learner), self._learner.config
        self.is_mixed = self._learner.max_epochs is not None

        def split(function: Callable[..., Any], num_arguments: int, donate: int | None = None, shared: int = 0) -> Any:
            """Over the devices; the last `shared` arguments are the same for all runs."""
            arguments = [PartitionSpec("runs")] * (num_arguments - shared) + [PartitionSpec()] * shared
            mapped = jax.shard_map(
                _anew(function), mesh=mesh, in_specs=tuple(arguments), out_specs=PartitionSpec("runs"), check_vma=False
            )
            # Said again, because XLA forgets how arrays of no elements are split.
            return jax.jit(mapped, donate_argnums=() if donate is None else donate, out_shardings=self.sharding)

        def segment(hparams: HyperParams, state: RunState, num_epochs: Array) -> tuple[RunState, Metrics]:
            def one(run: tuple[HyperParams, RunState, Array]) -> tuple[RunState, Metrics]:
                return trainer.segment(*run[:2], run[2] if self.is_mixed else num_epochs)

            each = num_epochs if self.is_mixed else jnp.zeros_like(state.status)
            state, metrics = map_runs(one, (hparams, state, each), runs_at_once(config, state))
            status = Metrics(names=("status",), scalars=state.status.astype(jnp.float32)[:, None], spectra={})
            return state, metrics.joined(status)

        def plasticity(hparams: HyperParams, state: RunState, tasks: PlasticityTask) -> Metrics:
            def one(run: tuple[HyperParams, RunState, Array]) -> Metrics:
                hparams, state, index = run
                # Looked up: the loop over runs would copy all tasks, which are large and never change.
                return trainer.plasticity(hparams, state, jax.tree.map(lambda x: x[index], tasks))

            num_runs, width = state.status.shape[0], runs_at_once(config, state)
            if width == num_runs:
                return jax.vmap(trainer.plasticity)(hparams, state, tasks)
            return map_runs(one, (hparams, state, jnp.arange(num_runs)), width)

        few = min(prepared_at_once(self._learner), self.width // self.num_devices)

        def init(hparams: HyperParams, keys: Array, choices: dict[str, Array]) -> RunState:
            if config.normalize_observations == "fixed":  # observations of random play are larger than a state
                return jax.lax.map(lambda run: trainer.init(*run), (hparams, keys, choices), batch_size=few)
            return jax.vmap(trainer.init)(hparams, keys, choices)

        def tasks(hparams: HyperParams, keys: Array, choices: dict[str, Array]) -> PlasticityTask:
            # A few at a time: what a task is computed from is larger than the task.
            make = partial(make_task, self._learner)
            return jax.lax.map(lambda run: make(*run), (hparams, keys, choices), batch_size=None if is_cpu() else few)

        self._init = split(init, 3)
        self._tasks = split(tasks, 3)
        self._plasticity = split(plasticity, 3)
        self._evaluation = split(lambda state: map_runs(trainer.evaluation, state, runs_at_once(config, state)), 1)
        self._segment = split(segment, 3, donate=1, shared=int(not self.is_mixed))
        self._compiled: dict[str, Any] = {}

    def arguments(self, runs: Sequence[Run] | None = None) -> Arguments:
        """What the programs take of some runs (all by default), padded and on the devices."""
        runs = self.group.runs if runs is None else runs
        runs = [*runs, *[runs[-1]] * (self.width - len(runs))]
        epochs = np.asarray([run.config.num_epochs for run in runs], np.int32)
        if not self.is_mixed and len(set(epochs.tolist())) > 1:
            raise ValueError("runs of one call must have the same number of epochs, unless it is_mixed.")
        hparams = jax.tree.map(lambda *values: np.asarray(values, np.float32), *[run.hparams for run in runs])
        keys = jax.vmap(jax.random.key)(np.asarray([run.seed for run in runs], np.uint32))
        choices = {
            name: np.asarray([values.index(getattr(run.config, name)) for run in runs], np.int32)
            for name, values in self._learner.alternatives
            if name != "num_epochs"
        }
        hparams, keys, choices = jax.device_put((hparams, keys, choices), self.sharding)
        return Arguments(hparams=hparams, keys=keys, choices=choices, num_epochs=epochs)

    def init(self, runs: Arguments) -> RunState:
        """Fresh states of all runs."""
        return self._compile_small("init", self._init, runs.hparams, runs.keys, runs.choices)(
            runs.hparams, runs.keys, runs.choices
        )

    def tasks(self, runs: Arguments) -> PlasticityTask:
        """The plasticity tasks of all runs, functions of their seeds and hyper-parameters."""
        return self._compile_small("tasks", self._tasks, runs.hparams, runs.keys, runs.choices)(
            runs.hparams, runs.keys, runs.choices
        )

    def _compile_small(self, name: str, function: Any, *arguments: Any) -> Any:
        if name not in self._compiled:  # it runs once: what compiles fastest is best
            options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
            lowered = function.lower(*arguments)
            self._compiled[name] = lowered.compile(compiler_options=options if is_cpu() else {})
        return self._compiled[name]

    def shapes(self, runs: Arguments) -> RunState:
        """The states of all runs, as shapes and types."""
        return jax.eval_shape(self._init, runs.hparams, runs.keys, runs.choices)

    def put(self, state: RunState) -> RunState:
        """A host state on the devices; in memory of its own, because the next segment consumes it."""
        return jax.device_put(state, self.sharding, may_alias=False)

    def compile(self, runs: Arguments) -> None:
        """Compile what is computed at log points ahead of time, so that progress can tell compiling from running."""
        if "segment" in self._compiled:
            return
        # LLVM's second level of optimisation compiles for half as long again, and makes nothing faster here.
        options = {"xla_backend_optimization_level": 1} if is_cpu() else {}
        config = self.group.config
        is_on = {"plasticity": config.measures_plasticity, "evaluation": config.num_evaluation_episodes > 0}
        names = ["segment", *(name for name, is_measured in is_on.items() if is_measured)]
        lowered = {name: self.lower(name, runs) for name in names}
        self._compiled |= {name: program.compile(compiler_options=options) for name, program in lowered.items()}
        self.needed_memory = max(needed_memory(self._compiled[name], self.num_devices) for name in lowered)
        if "plasticity" in lowered:  # tasks stay on the devices while segments are computed
            segment = needed_memory(self._compiled["segment"], self.num_devices)
            self.needed_memory = max(self.needed_memory, segment + bytes_of(self._task_shapes(runs)))

    def compiled(self, name: str) -> Any:
        """One of these programs if it has been compiled, else None."""
        return self._compiled.get(name)

    def lower(self, name: str, runs: Arguments) -> Any:
        """init, tasks, segment, plasticity or evaluation, traced for runs or their arguments' shapes.

        It is what is compiled, also for devices that are only described (`jax.experimental.topologies`).
        """
        if name == "init":
            return self._init.lower(runs.hparams, runs.keys, runs.choices)
        if name == "tasks":
            return self._tasks.lower(runs.hparams, runs.keys, runs.choices)
        state = self._on_devices(self.shapes(runs))
        if name == "segment":
            return self._segment.lower(runs.hparams, state, self._epochs(runs))
        if name == "evaluation":
            return self._evaluation.lower(state)
        return self._plasticity.lower(runs.hparams, state, self._task_shapes(runs))

    def _task_shapes(self, runs: Arguments) -> Any:
        return self._on_devices(jax.eval_shape(self._tasks, runs.hparams, runs.keys, runs.choices))

    def _on_devices(self, shapes: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.sharding), shapes)

    def narrower(self, budget: int) -> int:
        """The width that fits into `budget` bytes, by what the compiled program takes; a multiple of the devices."""
        return max(int(self.width * budget / self.needed_memory) // self.num_devices, 1) * self.num_devices

    def segment(self, runs: Arguments, state: RunState, *, is_learning: bool = True) -> tuple[RunState, Metrics]:
        """All runs up to their next log point; returns before the devices are done. The old state is consumed.

        With `is_learning` false there are no epochs: what it measures from an initial state is log point 0.
        """
        epochs = self._epochs(runs)
        return self._compiled["segment"](runs.hparams, state, epochs if is_learning else np.zeros_like(epochs))

    def plasticity(self, runs: Arguments, state: RunState, tasks: PlasticityTask) -> Metrics:
        """The plasticity losses of all runs as they are now."""
        return self._compiled["plasticity"](runs.hparams, state, tasks)

    def evaluation(self, state: RunState) -> Metrics:
        """Returns of whole episodes that the policies of all runs play as they are now."""
        return self._compiled["evaluation"](state)

    def _epochs(self, runs: Arguments) -> np.ndarray:
        return runs.num_epochs if self.is_mixed else runs.num_epochs[0]


def to_host(metrics: Metrics, num_runs: int) -> Metrics:
    """Metrics as NumPy arrays, of the first `num_runs` runs."""
    return jax.tree.map(lambda x: np.asarray(x)[:num_runs], metrics)

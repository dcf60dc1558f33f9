"""The compiled program of a group of runs: vmapped, a few runs at a time on a CPU, and split over the local devices."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from purejaxppo.config import TrainConfig
from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.ppo.state import Array, RunState
from purejaxppo.ppo.train import Trainer, make_trainer
from purejaxppo.sweep.memory import needed_memory
from purejaxppo.sweep.plan import Group, Run, without_epochs


def _is_cpu() -> bool:
    return jax.default_backend() == "cpu"


def runs_at_once(config: TrainConfig, state: RunState) -> int:
    """How many of a device's runs are to be computed side by side: all of them; on a CPU as many as its cache likes.

    The largest divisor of their number up to 4, and only as many as have weights, gradients and moments of 4 MiB
    together, and observations and activations of a minibatch of 2 MiB. Narrower means more calls, wider means that each
    step's data have left the cache when the next needs them.
    """
    num_runs = state.status.shape[0]
    if not _is_cpu():
        return num_runs
    weights = 4 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params)) // num_runs
    # Observations are [run, env, *obs]; both networks' hidden units.
    of_sample = math.prod(state.obs.shape[2:]) + 2 * sum(config.hidden_sizes)
    minibatch = 4 * config.minibatch_size * of_sample

    def fits(width: int) -> bool:
        return width * weights <= 2**22 and width * minibatch <= 2**21

    return max(width for width in (1, 2, 3, 4) if num_runs % width == 0 and (width == 1 or fits(width)))


def map_runs(function: Callable[[Any], Any], runs: Any, width: int) -> Any:
    """`function` over the leading axis of `runs`: `width` runs side by side by vmap, one such group after the other."""
    num_runs = jax.tree.leaves(runs)[0].shape[0]
    if width == num_runs:
        return jax.vmap(function)(runs)
    return jax.lax.map(function, runs, batch_size=width if width > 1 else None)


class GroupProgram:
    """A group's compiled program for `width` runs at a time, vmapped and split over the local devices.

    The number of epochs is one of its arguments, so that groups which differ in nothing else share one compilation.
    Chunks with fewer runs are padded (the last run repeated), and the padding is dropped from every result.
    """

    def __init__(self, group: Group, width: int | None = None, devices: list[Any] | None = None):
        self.group = group
        devices = jax.local_devices() if devices is None else devices
        devices = devices[: min(len(devices), width or len(group.runs))]
        self.width = width or -(-len(group.runs) // len(devices)) * len(devices)
        while self.width % len(devices):  # a width laid down for other devices
            devices = devices[:-1]
        self.num_devices = len(devices)
        mesh = Mesh(np.asarray(devices), ("runs",))
        self.sharding = NamedSharding(mesh, PartitionSpec("runs"))
        trainer: Trainer = make_trainer(group.config)

        runs, all_runs = PartitionSpec("runs"), PartitionSpec()

        def split(function: Callable[..., Any], arguments: tuple[PartitionSpec, ...], donate: tuple[int, ...]) -> Any:
            mapped = jax.shard_map(function, mesh=mesh, in_specs=arguments, out_specs=runs, check_vma=False)
            return jax.jit(mapped, donate_argnums=donate)

        def segment(
            hparams: HyperParams, state: RunState, is_plasticity_point: Array, num_epochs: Array
        ) -> tuple[RunState, Metrics]:
            num_runs, width, tasks = state.status.shape[0], runs_at_once(group.config, state), state.plasticity_task
            is_looked_up = tasks is not None and width < num_runs
            if is_looked_up:  # the loop over runs would copy all tasks, which are large and never change
                state = dataclasses.replace(state, plasticity_task=None)

            def one(run: tuple[HyperParams, RunState, Array]) -> tuple[RunState, Metrics]:
                hparams, state, index = run
                look_up = (lambda number: jax.tree.map(lambda x: x[index, number], tasks)) if is_looked_up else None
                return trainer.segment(hparams, state, is_plasticity_point, num_epochs, look_up)

            state, metrics = map_runs(one, (hparams, state, jnp.arange(num_runs)), width)
            state = dataclasses.replace(state, plasticity_task=tasks)
            return state, metrics.joined(Metrics.of({"status": state.status}))

        def init(hparams: HyperParams, keys: Array) -> RunState:
            # A few at a time as well: what the plasticity task is computed from is larger than all that is kept.
            width = runs_at_once(group.config, jax.eval_shape(jax.vmap(trainer.init), hparams, keys))
            return map_runs(lambda run: trainer.init(*run), (hparams, keys), width)

        self._init = split(init, (runs, runs), donate=())
        self._segment = split(segment, (runs, runs, all_runs, all_runs), donate=(1,))
        self._compiled_init: Any = None
        self._compiled: Any = None

    def for_group(self, group: Group, width: int) -> GroupProgram | None:
        """This program for the runs of another group, compiled as it is; None where it would be another one."""
        if width != self.width or without_epochs(group.config) != without_epochs(self.group.config):
            return None
        program = copy.copy(self)
        program.group = group
        return program

    def arguments(self, runs: Sequence[Run] | None = None) -> tuple[HyperParams, Array]:
        """Hyper-parameters [width] and keys [width] of some runs (all by default), padded and on the devices."""
        runs = self.group.runs if runs is None else runs
        runs = [*runs, *[runs[-1]] * (self.width - len(runs))]
        hparams = jax.tree.map(lambda *values: np.asarray(values, np.float32), *[run.hparams for run in runs])
        keys = jax.vmap(jax.random.key)(np.asarray([run.seed for run in runs], np.uint32))
        return jax.device_put((hparams, keys), self.sharding)

    def init(self, hparams: HyperParams, keys: Array) -> RunState:
        """Fresh states of all runs."""
        if self._compiled_init is None:  # it runs once: what compiles fastest is best
            options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
            self._compiled_init = self._init.lower(hparams, keys).compile(compiler_options=options if _is_cpu() else {})
        return self._compiled_init(hparams, keys)

    def shapes(self, hparams: HyperParams, keys: Array) -> RunState:
        """The states of all runs, as shapes and types."""
        return jax.eval_shape(self._init, hparams, keys)

    def put(self, state: RunState) -> RunState:
        """A host state on the devices; in memory of its own, because the next segment consumes it."""
        return jax.device_put(state, self.sharding, may_alias=False)

    def compile(self, hparams: HyperParams, keys: Array) -> None:
        """Compile the segment ahead of time, so that progress can tell compiling from running."""
        if self._compiled is None:
            # LLVM's second level of optimisation compiles for half as long again, and makes nothing faster here.
            options = {"xla_backend_optimization_level": 1} if _is_cpu() else {}
            state = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.sharding), self.shapes(hparams, keys)
            )
            self._compiled = self._segment.lower(hparams, state, *self._scalars(False)).compile(
                compiler_options=options
            )

    @property
    def needed_memory(self) -> int:
        """Bytes that the compiled program takes on all its devices together."""
        return needed_memory(self._compiled, self.num_devices)

    def narrower(self, budget: int) -> int:
        """The width that fits into `budget` bytes, by what the compiled program takes; a multiple of the devices."""
        return max(int(self.width * budget / self.needed_memory) // self.num_devices, 1) * self.num_devices

    def segment(
        self, hparams: HyperParams, state: RunState, is_plasticity_point: bool = False
    ) -> tuple[RunState, Metrics]:
        """All runs up to their next log point; returns before the devices are done. The old state is consumed."""
        return (self._compiled or self._segment)(hparams, state, *self._scalars(is_plasticity_point))

    def _scalars(self, is_plasticity_point: bool) -> tuple[np.bool_, np.int32]:
        return np.bool_(is_plasticity_point), np.int32(self.group.config.num_epochs)


def to_host(metrics: Metrics, num_runs: int) -> dict[str, np.ndarray]:
    """Metrics by name, [S] and [S, D], on the host, of the first `num_runs` runs."""
    local = jax.tree.map(lambda x: np.asarray(x)[:num_runs], metrics)
    return {name: local[name] for name in local}

"""How far training is from the least time this machine needs for it: time / floor of three settings.

    python experiments/benchmarks/floor.py

The floor of a rollout and its update is the sum of two programs, split over the same devices and as many runs side by
side as training, and timed in turn with it:

- environments: the same steps with random actions, resets included, in a scan of its own;
- networks: the policy's pass for every step, both networks' pass over the rollout, and the gradient of every minibatch
  with a bare SGD step, on fixed observations. No losses, no Adam, no shuffling, no advantages, no diagnostics.

A second, lower floor replaces the networks' time by arithmetic: their floating-point operations, as XLA counts them, at
the rate at which this machine multiplies 512 x 512 matrices. Writes results/floor.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from settings import SETTINGS, group_of

from purejaxppo.config import TrainConfig
from purejaxppo.ppo.state import Learner, RunState, make_learner
from purejaxppo.sweep.devices import use_cpu_cores
from purejaxppo.sweep.program import Arguments, GroupProgram, map_runs, runs_at_once
from purejaxppo.sweep.provenance import provenance

HERE = Path(__file__).parent
NAMES = ("cartpole", "breakout", "breakout_conv")
MATRIX_SIZE, NUM_PRODUCTS = 512, 50
_TINY = 1e-30  # what makes one pass wait for another without changing anything


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "floor.json")
    args = parser.parse_args()
    use_cpu_cores()
    rate = matmul_rate()
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s on {len(jax.local_devices())} devices together", flush=True)
    result: dict[str, Any] = {"provenance": provenance(), "flops_per_second": rate, "settings": {}}
    for name in args.settings:
        found = result["settings"][name] = measure(name, args.rounds, rate)
        print(f"{name}, {found['updates']} updates of all runs:", flush=True)
        for part, value in found.items():
            if isinstance(value, float):
                print(f"  {part:<20} {value:8.4g}", flush=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: {args.out}")


def measure(name: str, rounds: int, flops_per_second: float) -> dict[str, Any]:
    """Seconds of the updates up to one log point, of all runs together, and ratios: medians of rounds, in turn."""
    group = group_of(SETTINGS[name])
    config = group.config
    programs = {
        "ours": GroupProgram(dataclasses.replace(group, config=dataclasses.replace(config, diagnostics=False))),
        "diagnostics": GroupProgram(group),
    }
    calls: dict[str, Callable[[], Any]] = {}
    for label, program in programs.items():
        runs = program.arguments()
        program.compile(runs)
        calls[label] = _segments(program, runs, program.init(runs))
    learner = make_learner(config)
    state = programs["ours"].init(programs["ours"].arguments())
    updates = config.updates_per_log
    for label, part in {"environments": environment_steps, "networks": network_passes}.items():
        calls[label] = _on_all_devices(partial(part, learner, updates), config, state)
    seconds: dict[str, list[float]] = {label: [] for label in calls}
    for number in range(rounds + 1):
        for label, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if number:  # the first round warms up
                seconds[label].append(time.perf_counter() - start)
    median = {label: statistics.median(times) for label, times in seconds.items()}
    by_round = [dict(zip(seconds, times, strict=True)) for times in zip(*seconds.values(), strict=True)]
    operations = len(group.runs) * updates * flops_of_update(learner, jax.tree.map(lambda x: x[0], state))
    arithmetic = operations / flops_per_second
    return median | {
        "runs": len(group.runs),
        "updates": updates,
        "flops": operations,
        "arithmetic": arithmetic,
        "cost_of_diagnostics": statistics.median(x["diagnostics"] / x["ours"] - 1 for x in by_round),
        "over_floor": statistics.median(x["ours"] / (x["environments"] + x["networks"]) for x in by_round),
        "over_arithmetic": statistics.median(x["ours"] / (x["environments"] + arithmetic) for x in by_round),
        "seconds": seconds,
    }


def _segments(program: GroupProgram, runs: Arguments, state: RunState) -> Callable[[], Any]:
    """Each call is the program's next segment."""
    kept = [state]

    def call() -> Any:
        kept[0], metrics = program.segment(runs, kept[0])
        return kept[0], metrics

    return call


def _on_all_devices(part: Callable[[RunState], Any], config: TrainConfig, state: RunState) -> Callable[[], Any]:
    """A part of the work for all runs: over the devices and as many runs side by side as training."""
    sharding = state.status.sharding
    assert isinstance(sharding, NamedSharding)
    mapped = jax.shard_map(
        lambda state: map_runs(part, state, runs_at_once(config, state)),
        mesh=sharding.mesh,
        in_specs=sharding.spec,
        out_specs=sharding.spec,
        check_vma=False,
    )
    return partial(jax.jit(mapped).lower(state).compile(), state)


def environment_steps(learner: Learner, num_updates: int, state: RunState) -> Any:
    """All environment steps of some rollouts, with actions drawn from a fixed policy output."""
    config = learner.config
    outputs = jnp.zeros((config.num_envs, learner.distribution.num_outputs))

    def step(env_state: Any, key: jax.Array) -> tuple[Any, Any]:
        key_action, key_env = jax.random.split(key)
        action = learner.distribution.to_environment(learner.distribution.sample(outputs, key_action))
        transition = jax.vmap(learner.env.step)(jax.random.split(key_env, config.num_envs), env_state, action)
        return transition.state, (transition.obs.astype("float32").sum(), transition.reward.sum())

    keys = jax.random.split(state.key, num_updates * config.num_steps)
    return jax.lax.scan(step, state.env_state, keys)


def network_passes(learner: Learner, num_updates: int, state: RunState) -> Any:
    """All passes of both networks that some updates take, on observations that do not change."""
    config, networks = learner.config, learner.networks
    obs, rollout, minibatches = _observations(learner, state)

    def act(total: jax.Array, _: None) -> tuple[jax.Array, None]:
        return networks.policy(params, obs + _TINY * total).outputs.sum(), None  # waits for the step before

    def learn(params: Any, minibatch: jax.Array) -> tuple[Any, None]:
        gradient = jax.grad(lambda params: _sum_of_outputs(learner, params, minibatch))(params)
        return jax.tree.map(lambda x, g: x - _TINY * g, params, gradient), None

    def epoch(params: Any, _: None) -> tuple[Any, None]:
        return jax.lax.scan(learn, params, minibatches)

    def update(params: Any, _: None) -> tuple[Any, jax.Array]:
        total = jax.lax.scan(act, jnp.zeros(()), None, config.num_steps)[0]
        total += _sum_of_outputs(learner, jax.tree.map(lambda x: x + _TINY * total, params), rollout)
        params, _ = jax.lax.scan(epoch, params, None, config.num_epochs)
        return params, total

    params = state.params
    return jax.lax.scan(update, params, None, num_updates)


def _observations(learner: Learner, state: RunState) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As many as one step, one rollout and all minibatches of it have: [N, ...], [T N, ...] and [M, B, ...]."""
    config = learner.config
    obs = learner.network_input(None, state.obs)
    rollout = jnp.tile(obs, (config.num_steps, *[1] * (obs.ndim - 1)))
    size = config.num_minibatches * config.minibatch_size
    return obs, rollout, rollout[:size].reshape(config.num_minibatches, config.minibatch_size, *obs.shape[1:])


def _sum_of_outputs(learner: Learner, params: Any, obs: jax.Array) -> jax.Array:
    policy, critic = learner.networks.both(params, obs)
    return jnp.square(policy.outputs).sum() + jnp.square(critic.outputs).sum()


def flops_of_update(learner: Learner, state: RunState) -> float:
    """Floating-point operations of the networks in one update of one run, as XLA counts them."""
    config = learner.config
    obs, rollout, minibatches = _observations(learner, state)

    def flops(function: Callable[..., Any], *arguments: Any) -> float:
        costs = jax.jit(function).lower(*arguments).cost_analysis()
        assert costs is not None
        return costs["flops"]

    acting = flops(lambda params, obs: learner.networks.policy(params, obs).outputs, state.params, obs)
    preparing = flops(lambda params, obs: _sum_of_outputs(learner, params, obs), state.params, rollout)
    learning = flops(jax.grad(lambda params, obs: _sum_of_outputs(learner, params, obs)), state.params, minibatches[0])
    return config.num_steps * acting + preparing + config.num_epochs * config.num_minibatches * learning


def matmul_rate() -> float:
    """Floating-point operations a second of large float32 matrix products, on all devices together."""
    devices = jax.local_devices()
    mesh, split = Mesh(np.asarray(devices), ("runs",)), PartitionSpec("runs")

    def products(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, NUM_PRODUCTS, lambda _, y: y @ x[0] / MATRIX_SIZE, x[0])[None]

    x = jnp.ones((len(devices), MATRIX_SIZE, MATRIX_SIZE))
    function = jax.jit(jax.shard_map(products, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))
    jax.block_until_ready(function(x))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(function(x))
        seconds.append(time.perf_counter() - start)
    return len(devices) * NUM_PRODUCTS * 2 * MATRIX_SIZE**3 / statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(main())

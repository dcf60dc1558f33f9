"""What one pass of a training program's loops launches, found by the loops' Python functions. No command."""

from __future__ import annotations

import math

from hlo import Loop, Module, Step

_COLLECT = ("collect", "collect_trajectories")  # ours and rejax's
_GAE = ("gae", "calculate_gae")


def per_pass(module: Module, num_steps: int, num_minibatches: int) -> dict[str, float]:
    """Launches per environment step, step of GAE, minibatch and update of a training program.

    num_minibatches: of an update, all epochs together. Raises ValueError where a loop is not found.
    """
    steps = [step for step in module.steps() if step.instruction.is_launch]
    rollout = _outermost(steps, _COLLECT)
    updates = rollout[0].trips if len(rollout) > 1 else 1
    if updates is None:
        raise ValueError("the program does not say how many updates it makes")
    depth = len(rollout) - 1
    advantages = _outermost(steps, _GAE)
    learning = [
        path
        for path in _paths(steps)
        if len(path) > depth
        and not _is_in(path[depth], _COLLECT + _GAE)
        and math.prod(loop.trips or 0 for loop in path[depth:]) == num_minibatches
    ]
    if not learning:
        raise ValueError(f"no loop of {num_minibatches} minibatches in the program")
    return {
        "environment_step": _total(steps, rollout) / (updates * num_steps),
        "gae_step": _total(steps, advantages) / (updates * num_steps),
        "minibatch": max(_total(steps, path) for path in learning) / (updates * num_minibatches),
        "update": _total(steps, rollout[:depth]) / updates,
    }


def _paths(steps: list[Step]) -> set[tuple[Loop, ...]]:
    """All nests of loops, by their innermost one."""
    return {step.loops[: i + 1] for step in steps for i in range(len(step.loops))}


def _is_in(loop: Loop, functions: tuple[str, ...]) -> bool:
    return any(name.rpartition(".")[2] in functions for name in loop.functions)


def _outermost(steps: list[Step], functions: tuple[str, ...]) -> tuple[Loop, ...]:
    """The nest whose innermost loop alone was written in one of these functions; of several the one that does most."""
    found = [
        path
        for path in _paths(steps)
        if _is_in(path[-1], functions) and not any(_is_in(x, functions) for x in path[:-1])
    ]
    if not found:
        raise ValueError(f"no loop of {' or '.join(functions)} in the program: have they other names now?")
    return max(found, key=lambda path: _total(steps, path))


def _total(steps: list[Step], path: tuple[Loop, ...]) -> int:
    """Launches within a nest of loops."""
    return sum(step.times for step in steps if step.loops[: len(path)] == path)

"""Speed against peers at equal PPO settings: environment steps a second and compile time, each in its own process.

    python experiments/benchmarks/peers.py                                     # everything
    python experiments/benchmarks/peers.py --settings cartpole sb3             # some settings
    python experiments/benchmarks/peers.py --settings cartpole --steps 5000 --out /tmp/peers.json    # whether it works

Every setting runs its contestants in turn, in an order that is rotated from round to round; a process compiles, warms
up and times a few pieces of training. Writes results/peers.json (machine, versions, every raw number) after each
setting, where it replaces what an earlier call found, and results/peers.png at the end. Peers get virtual environments
of their own, made when missing.

Equal in a setting: environment, environments of a run, steps of a rollout, epochs, minibatches, network widths, tanh;
so environment steps, gradient steps and sample passes are equal as well. The rest of the work is not:

- ours computes its diagnostics at the (up to 100) log points of a run of `total_steps` and measures the plasticity loss
  at 40 of them; a piece is shorter than that run, and its log points are as dense. Where a rollout is large, every
  update is a log point, and a measurement of the plasticity loss takes as long as an update. `ours_bare` has neither.
  rejax and Stable-Baselines3 report nothing, brax the means of its losses.
- rejax vmaps all seeds in one program over both cores; `rejax_split` is the same with the seeds split over the cores as
  devices, as ours does it, by lines that its user has to write. It clips values, acts from float observations, and
  treats time limits as terminations, where ours evaluates last observations of episodes cut off. Convolutions of ours
  are patches and matrix products; rejax has no convolution, so it gets flax's.
- brax trains one run: both networks by one optimiser, with advantages computed anew in every minibatch (of whole
  unrolls, where ours draws single samples), and with cached first states in place of resets. `brax_split` lets it split
  the environments over the cores as devices. Both normalise observations; both sample tanh-normal actions.
- Stable-Baselines3 trains one run in Python and PyTorch, on gymnasium's CartPole.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import pictures
from matplotlib.figure import Figure
from peer_processes import HERE, PeerError, python_of, run_worker
from settings import SETTINGS, Setting

from purejaxppo.plots.channels import COLOURS
from purejaxppo.plots.sheets import house_style
from purejaxppo.sweep.devices import use_cpu_cores
from purejaxppo.sweep.provenance import provenance

OURS = "../ours_worker.py"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A worker with what it changes in a setting. `peer` names its virtual environment; None is this one."""

    label: str
    script: str
    peer: str | None = None
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return self.script == OURS


CONTESTANTS = {
    "ours": Contestant(label="ours", script=OURS),
    "ours_bare": Contestant(label="ours, no diagnostics", script=OURS, changes={"diagnostics": False}),
    "ours_1": Contestant(label="ours, 1 run", script=OURS, changes={"runs": 1}),
    "ours_4": Contestant(label="ours, 4 runs", script=OURS, changes={"runs": 4}),
    "rejax": Contestant(label="rejax", script="rejax_worker.py", peer="rejax"),
    "rejax_split": Contestant(
        label="rejax, split by hand", script="rejax_worker.py", peer="rejax", changes={"is_split": True}
    ),
    "brax": Contestant(label="brax", script="brax_worker.py"),
    "brax_split": Contestant(label="brax, split", script="brax_worker.py", changes={"is_split": True}),
    "sb3": Contestant(label="Stable-Baselines3", script="sb3_worker.py", peer="sb3", changes={"runs": 1}),
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS), help="of these, none to draw only"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="environment steps of one run in a repeat, for all contestants")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "peers.json")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    num_cores = use_cpu_cores()
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for name in args.settings:
        setting = SETTINGS[name]
        shared = {"num_cores": num_cores} | ({"steps": args.steps} if args.steps else {})
        load = os.getloadavg()
        answers = measure(setting, args.rounds, shared)
        summary = {contestant: summarise(rounds) for contestant, rounds in answers.items()}
        found[name] = {
            "provenance": provenance(),
            "load_average_before": load,
            "setting": dataclasses.asdict(setting) | shared,
            "contestants": {key: summary[key] | {"rounds": answers[key]} for key in answers},
            "ratios": ratios(summary),
        }
        print("\n" + table({name: found[name]}) + "\n", flush=True)
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    found = {name: found[name] for name in SETTINGS if name in found}
    print(table(found))
    caption = f"{pictures.measured_on(found)}; each in a process of its own, in turn. Blue: ours; grey: peers."
    pictures.write(plot(found), args.out.with_suffix(".png"), caption)
    print(f"written: {args.out} and {args.out.with_suffix('.png').name}")


def measure(setting: Setting, rounds: int, shared: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Answers of every contestant, one a round. One that cannot be installed or fails is named and left out."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in setting.contestants}
    failed: set[str] = set()
    for number in range(rounds):
        for name in rotated(setting.contestants, number):
            if name in failed:
                continue
            contestant = CONTESTANTS[name]
            try:
                python = python_of(contestant.peer) if contestant.peer else Path(sys.executable)
                answer = run_worker(python, contestant.script, worker_argument(setting, contestant) | shared)
            except PeerError as error:
                print(f"left out: {contestant.label}: {error}", flush=True)
                failed.add(name)
                continue
            answers[name].append(answer)
            rate = answer["steps"] / statistics.median(answer["seconds"])
            print(f"{setting.env}, round {number + 1}: {contestant.label}: {rate:,.0f} steps/s", flush=True)
    return {name: answers[name] for name in answers if name not in failed}


def rotated(items: tuple[str, ...], number: int) -> tuple[str, ...]:
    """The items with another one first in every round."""
    start = number % len(items)
    return items[start:] + items[:start]


def worker_argument(setting: Setting, contestant: Contestant) -> dict[str, Any]:
    """What a worker is told: the setting, what the contestant changes, and the size of a minibatch.

    `minibatch_size` counts samples, `minibatch_sequences` brax's whole unrolls: both are a rollout / num_minibatches.
    Raises ValueError where num_minibatches does not divide num_envs.
    """
    argument = dataclasses.asdict(setting) | {"is_split": False} | contestant.changes
    if not contestant.is_ours and setting.peer_steps:
        argument["steps"] = setting.peer_steps
    num_envs, num_steps, num_minibatches = (argument[key] for key in ("num_envs", "num_steps", "num_minibatches"))
    if num_envs % num_minibatches:
        raise ValueError(f"num_minibatches is {num_minibatches}, but must divide num_envs, {num_envs}.")
    sequences = num_envs // num_minibatches
    return argument | {"minibatch_size": sequences * num_steps, "minibatch_sequences": sequences}


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over all repeats of all rounds, and over the rounds' compile times."""
    compiling = [answer["compile_seconds"] for answer in rounds if answer["compile_seconds"] is not None]
    return {
        "steps_per_second": statistics.median(
            answer["steps"] / seconds for answer in rounds for seconds in answer["seconds"]
        ),
        "compile_seconds": statistics.median(compiling) if compiling else None,
    }


def ratios(summary: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Steps a second of each of ours over each peer's, by peer."""
    rate = {name: values["steps_per_second"] for name, values in summary.items()}
    ours = [name for name in rate if CONTESTANTS[name].is_ours]
    return {peer: {name: rate[name] / rate[peer] for name in ours} for peer in rate if peer not in ours}


def table(settings: dict[str, Any]) -> str:
    """A line for each contestant of each setting; a peer's line ends with ours / peer."""
    lines = [f"{'setting':<18}  {'contestant':<20}  {'steps/s':>9}  {'compile':>8}  ours / peer"]
    for name, found in settings.items():
        for contestant, values in found["contestants"].items():
            compiling = "-" if values["compile_seconds"] is None else f"{values['compile_seconds']:.1f} s"
            ratio = found["ratios"].get(contestant, {})
            compared = ", ".join(f"{CONTESTANTS[ours].label}: {value:.2f}" for ours, value in ratio.items())
            label, rate = CONTESTANTS[contestant].label, values["steps_per_second"]
            lines.append(f"{name:<18}  {label:<20}  {rate:>9,.0f}  {compiling:>8}  {compared}".rstrip())
    return "\n".join(lines)


def plot(settings: dict[str, Any]) -> Figure:
    """One horizontal bar for each contestant of each setting, on a logarithmic axis."""
    rows = [
        (name, contestant, values["steps_per_second"])
        for name, found in settings.items()
        for contestant, values in found["contestants"].items()
    ]
    with house_style():
        figure = Figure(figsize=(8, 1.2 + 0.24 * len(rows)), layout="constrained")
        ax = figure.subplots()
        is_ours = [CONTESTANTS[contestant].is_ours for _, contestant, _ in rows]
        colours = [COLOURS[0] if ours else pictures.PEER for ours in is_ours]
        bars = ax.barh(range(len(rows)), [rate for _, _, rate in rows], color=colours)
        for bar, ours in zip(bars, is_ours, strict=True):
            pictures.mark(bar, "ours" if ours else "peer")
        ax.bar_label(bars, labels=[f"{rate:,.0f}" for _, _, rate in rows], padding=3, fontsize=8)
        labels = [f"{name}: {CONTESTANTS[contestant].label}" for name, contestant, _ in rows]
        ax.set(xscale="log", xlabel="environment steps a second, all runs together", yticks=range(len(rows)))
        ax.set_yticklabels(labels)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.margins(x=0.12)
        ax.set_xlim(left=10 ** math.floor(math.log10(min(rate for _, _, rate in rows))))
        ax.set_title("Training speed, compilation excluded")
    return figure


if __name__ == "__main__":
    sys.exit(main())

"""Learning against rejax at equal PPO settings: final returns of CartPole (0.5M steps) and Breakout-MinAtar (1M).

    python experiments/benchmarks/parity.py
    python experiments/benchmarks/parity.py --steps 5000 --seeds 2 --out /tmp/parity.json    # to see that it works

Trains SEEDS runs of each, ours by `run_sweep`, rejax in a process of its own virtual environment, and then plays 128
fresh episodes a run with sampled actions in both, each by its own evaluation. A run's return is the mean over its
episodes. Prints the interquartile mean over runs with its 95 % bootstrap interval for both, and whether the intervals
overlap; writes results/parity.json and results/parity.png.

Equal: learning rate, discount, GAE's lambda, clip range, coefficients (rejax halves its value loss, so it is given
twice our coefficient), Adam, epochs, minibatches, environments, steps, network shapes, activation, the distribution of
initial weights (rejax is given networks that draw them as ours do), no clipping of gradients, and time limits as
terminations, as rejax has no other way. Not equal: rejax clips values in the value loss, and ours does not; random
numbers, so that no two runs correspond; the version of gymnax (0.0.9 there, 1.0 here).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pictures
from matplotlib.figure import Figure
from peer_processes import HERE, PeerError, python_of, run_worker

from purejaxppo import HyperParams, Sweep, TrainConfig, run_sweep, use_cpu_cores
from purejaxppo.evaluate import evaluate
from purejaxppo.plots.channels import COLOURS
from purejaxppo.plots.sheets import house_style
from purejaxppo.statistics.estimates import bootstrap_interval, iqm
from purejaxppo.sweep.provenance import provenance

SEEDS = 8
EPISODES = 128  # rejax's number
NO_CLIPPING = 1e9
CONTESTANTS = ("ours", "rejax")
CONFIG = TrainConfig(num_steps=128, num_epochs=4, hidden_sizes=(64, 64), time_limit="terminate", num_log_points=25)
HPARAMS = HyperParams(gamma=0.99, gae_lambda=0.95, clip_eps=0.2, entropy_coef=0.01, max_grad_norm=NO_CLIPPING)
SETTINGS = {
    "cartpole": (
        dataclasses.replace(
            CONFIG, env="gymnax/CartPole-v1", total_steps=512_000, num_envs=4, minibatch_size=128, activation="tanh"
        ),
        dataclasses.replace(HPARAMS, learning_rate=2.5e-4),
    ),
    "breakout": (
        dataclasses.replace(
            CONFIG, env="gymnax/Breakout-MinAtar", total_steps=1_024_000, num_envs=64, minibatch_size=2048
        ),
        dataclasses.replace(HPARAMS, learning_rate=2.5e-3),
    ),
}


def main() -> None:
    """Train both, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS), help="of these, none to draw only"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, help="environment steps of a run, instead of the setting's")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "parity.json")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    use_cpu_cores()
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for name in args.settings:
        config, hparams = SETTINGS[name]
        if args.steps:
            config = dataclasses.replace(config, total_steps=args.steps)
        try:
            theirs = rejax_returns(config, hparams, args.seeds)
        except PeerError as error:
            sys.exit(str(error))
        ours = our_returns(config, hparams, args.seeds)
        found[name] = {
            "provenance": provenance(),
            "episodes": EPISODES,
            "env": config.env,
            "total_steps": config.num_updates * config.batch_size,
            "config": dataclasses.asdict(config),
            "hparams": dataclasses.asdict(hparams),
            "rejax_versions": theirs["versions"],
            "ours": with_interval(ours),
            "rejax": with_interval(theirs["returns"]),
        }
        print(line(name, found[name]), flush=True)
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    pictures.write(plot(found), args.out.with_suffix(".png"), caption(found))
    print(f"written: {args.out} and {args.out.with_suffix('.png').name}")


def our_returns(config: TrainConfig, hparams: HyperParams, seeds: int) -> list[float]:
    """Mean return of each seed after training."""
    sweep = Sweep(name="parity", seeds=tuple(range(seeds)), config=config, hparams=hparams)
    with tempfile.TemporaryDirectory() as out:
        run_sweep(sweep, out, is_quiet=True)
        return evaluate(out, episodes=EPISODES)["return_mean"].tolist()


def rejax_returns(config: TrainConfig, hparams: HyperParams, seeds: int) -> dict[str, Any]:
    """What rejax_returns.py answers for the same settings. Raises PeerError when rejax cannot be installed or fails."""
    answer = run_worker(python_of("rejax"), "rejax_returns.py", rejax_argument(config, hparams, seeds))
    assert answer["episodes"] == EPISODES, answer
    return answer


def rejax_argument(config: TrainConfig, hparams: HyperParams, seeds: int) -> dict[str, Any]:
    """Our configuration in rejax's terms."""
    return {
        "env": config.env,
        "runs": seeds,
        "total_steps": config.num_updates * config.batch_size,
        "num_envs": config.num_envs,
        "num_steps": config.num_steps,
        "num_epochs": config.num_epochs,
        "num_minibatches": config.num_minibatches,
        "torso": config.torso,
        "hidden_sizes": config.hidden_sizes,
        "activation": config.activation,
        "hparams": {
            "learning_rate": hparams.learning_rate,
            "gamma": hparams.gamma,
            "gae_lambda": hparams.gae_lambda,
            "clip_eps": hparams.clip_eps,
            "ent_coef": hparams.entropy_coef,
            "vf_coef": 2 * hparams.value_coef,  # of half the squared error
        },
    }


def with_interval(returns: list[float]) -> dict[str, Any]:
    """Returns of the runs, their interquartile mean and its 95 % bootstrap interval."""
    low, high = bootstrap_interval(np.asarray(returns))
    return {"returns": returns, "iqm": float(iqm(np.asarray(returns))), "low": float(low), "high": float(high)}


def line(name: str, found: dict[str, Any]) -> str:
    """One setting in words."""
    parts = [
        f"{who} {found[who]['iqm']:.4g} [{found[who]['low']:.4g}, {found[who]['high']:.4g}]" for who in CONTESTANTS
    ]
    return (
        f"{name}, {len(found['ours']['returns'])} seeds: {', '.join(parts)}: {verdict(found['ours'], found['rejax'])}"
    )


def verdict(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Whether two intervals overlap, and if not, which is the higher."""
    if ours["low"] > theirs["high"]:
        return "ours is higher"
    return "ours is lower" if ours["high"] < theirs["low"] else "the intervals overlap"


def caption(settings: dict[str, Any]) -> str:
    """What is drawn, of which runs."""
    told = ";\n".join(
        f"{name}: learning rate {found['hparams']['learning_rate']:g}, {found['total_steps']:,} steps, "
        f"{len(found['ours']['returns'])} seeds, {found['episodes']} episodes a run"
        for name, found in settings.items()
    )
    return f"{told}.\nSquares: interquartile mean with its 95 % bootstrap interval; dots: runs."


def plot(settings: dict[str, Any]) -> Figure:
    """A panel for each setting: every run's return, and the interquartile mean with its interval."""
    with house_style():
        figure = Figure(figsize=(max(3.2 * len(settings), 6.4), 3.2), layout="constrained")
        for ax, (name, found) in zip(
            figure.subplots(1, len(settings), squeeze=False)[0], settings.items(), strict=True
        ):
            for x, who in enumerate(CONTESTANTS):
                values = found[who]
                ax.plot(np.full(len(values["returns"]), x + 0.15), values["returns"], "o", color="0.6", markersize=4)
                error = [[values["iqm"] - values["low"]], [values["high"] - values["iqm"]]]
                square, *_ = ax.errorbar(
                    x, values["iqm"], error, fmt="s", color=(COLOURS[0], pictures.PEER)[x], capsize=4
                )
                pictures.mark(square, f"{name}: {who}")
            ax.set(title=name, xlim=(-0.5, 1.5), xticks=[0, 1], ylabel="return of fresh episodes")
            ax.set_xticklabels(CONTESTANTS)
    return figure


if __name__ == "__main__":
    sys.exit(main())

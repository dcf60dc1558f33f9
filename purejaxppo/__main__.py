"""The command line, `purejaxppo --help`. What commands do is in `commands/`.

Nothing here imports JAX before a command that needs it has been chosen and its input checked.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

import tyro

from purejaxppo import __version__
from purejaxppo.commands.arguments import Flat, Imports, Options
from purejaxppo.commands.computing import extend, resume, sweep, train
from purejaxppo.commands.playing import evaluate, rediagnose, render
from purejaxppo.commands.reading import claims, compare, envs, export, merge, metrics, plot, report, summary, toy
from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError, RunError, Stopped
from purejaxppo.hyperparams import HyperParams
from purejaxppo.presets import preset
from purejaxppo.sweep.terminal import guard_streams, usual_arguments

# What `purejaxppo[trainer]` brings; everything that reads results does without.
TRAINER = ("optax", "gymnax", "brax", "chex", "distrax", "tensorboardX", "PIL", "tqdm")

COMMANDS = {
    "train": train,
    "sweep": sweep,
    "resume": resume,
    "extend": extend,
    "merge": merge,
    "plot": plot,
    "summary": summary,
    "claims": claims,
    "compare": compare,
    "report": report,
    "toy": toy,
    "evaluate": evaluate,
    "rediagnose": rediagnose,
    "render": render,
    "export": export,
    "envs": envs,
    "metrics": metrics,
}


WHOLE = [
    f"--{name.replace('_', '-')}" for name, hint in get_type_hints(TrainConfig).items() if hint in (int, int | None)
]
WHOLE += ["--seeds", "--episodes", "--steps", "--max-steps"]


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence and exit code 2, bad weather in one and 1."""
    guard_streams()
    os.environ["MPLBACKEND"] = "agg"  # a notebook's, inherited from it, may not exist here; nothing opens a window
    if sys.argv[1:] == ["--version"]:
        print(f"purejaxppo {__version__}")
        return
    try:
        _call(sys.argv[1:])
        sys.stdout.flush()
    except ConfigError as error:
        _fail(error, 2)
    except RunError as error:
        _fail(error, 1)
    except Stopped as error:
        _fail(error, 130)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in TRAINER:
            raise
        _fail(f"{package} is not installed, but training needs it: pip install 'purejaxppo[trainer]'", 2)
    except KeyboardInterrupt:
        print("purejaxppo: interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # the ordinary end of the interpreter would wait for what the devices compute
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _call(arguments: list[str]) -> None:
    arguments = usual_arguments(_with_flags(arguments), WHOLE)
    tyro.extras.subcommand_cli_from_dict(
        _with_preset(COMMANDS, arguments),
        prog="purejaxppo",
        description="PPO with representation diagnostics: whole sweeps in one compiled program.",
        args=arguments,
    )


def _fail(sentence: object, code: int) -> NoReturn:
    print(f"purejaxppo: {sentence}", file=sys.stderr, flush=True)
    raise SystemExit(code) from None


def _with_flags(arguments: list[str]) -> list[str]:
    """`--diagnostics` and `--no-diagnostics` as before it could also be a list, for which tyro makes no flags."""
    found = []
    for argument, after in itertools.zip_longest(arguments, arguments[1:], fillvalue="--"):
        if argument in ("--no-diagnostics", "--no_diagnostics"):
            found += ["--diagnostics", "False"]
        elif argument == "--diagnostics" and after.startswith("--"):
            found += [argument, "True"]
        else:
            found.append(argument)
    return found


def _with_preset(commands: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    """The commands, with `train`'s defaults taken from the preset that the arguments name, if any."""
    names = [b for a, b in itertools.pairwise(arguments) if a == "--preset"]
    names += [a.removeprefix("--preset=") for a in arguments if a.startswith("--preset=")]
    config, hparams = preset(names[-1]) if names else (TrainConfig(), HyperParams())

    def train_with_defaults(
        config: Annotated[TrainConfig, Flat] = config,
        hparams: Annotated[HyperParams, Flat] = hparams,
        seeds: int = 1,
        preset: str | None = None,
        out: Path | None = None,
        plan_only: bool = False,
        dry_run: bool = False,
        imports: Imports = (),
        options: Annotated[Options, Flat] = Options(),
    ) -> None:
        train(config, hparams, seeds, preset, out, plan_only, dry_run, imports, options)

    train_with_defaults.__doc__ = train.__doc__
    return commands | {"train": train_with_defaults}


if __name__ == "__main__":
    main()

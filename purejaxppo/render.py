"""One episode of a trained policy to look at: a GIF for gymnax environments, an HTML page for brax."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw

from purejaxppo import envs
from purejaxppo.config import TrainConfig
from purejaxppo.envs.wrappers import innermost
from purejaxppo.errors import ConfigError
from purejaxppo.ppo.state import Array
from purejaxppo.sweep.plan import MAX_SEED
from purejaxppo.sweep.policies import Policy, load_policy
from purejaxppo.sweep.store import write_atomically

SIDE = 320  # pixels
MOST_STEPS = 100_000  # all of which are in memory, and then in one file
_INK, _MUTED, _ACCENT, _PAPER = "#222222", "#999999", "#d55e00", "#ffffff"
# One colour per channel of an image; the later channel covers the earlier one. Seaquest has the most, ten.
_CHANNELS = (
    "#56b4e9", "#f0e442", "#8a7b00", "#d55e00", "#009e73", "#cc79a7", "#0072b2", "#e69f00", "#ffffff", "#aaaaaa",
)  # fmt: skip
_OVERSAMPLING = 2  # lines are drawn larger and scaled down, which smooths them


def render(out: str | Path, run: int, path: Path | None = None, *, seed: int = 0, max_steps: int = 500) -> Path:
    """Draw one episode of a trained policy, actions sampled, and return the file: a GIF, or an HTML page for brax.

    Environments of one's own are drawn by their method `draw`, from an observation to an image [H, W, 3] of uint8, or
    like MinAtar where observations are images of booleans.

    run: place in the sweep. path: `OUT/run_K.gif` or `OUT/run_K.html` by default; an older file is replaced. Longer
    episodes are cut after `max_steps`. The page loads brax's viewer from the network when it is opened.

    Raises ConfigError for an environment that cannot be drawn, a path that does not fit, and as `load_policy` does.
    """
    if not 1 <= max_steps <= MOST_STEPS:
        raise ConfigError(f"max_steps is {max_steps}, but must be at least 1 and at most {MOST_STEPS}.")
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed is {seed}, but must be a whole number from 0 to 2^32 - 1.")
    policy = load_policy(out, run)
    name = policy.config.env
    is_brax = name.startswith("brax/")
    draw, milliseconds = (None, 0) if is_brax else _drawing(policy)
    suffix = ".html" if is_brax else ".gif"
    path = (Path(out) / f"run_{run}{suffix}" if path is None else Path(path)).expanduser()
    if path.suffix != suffix:
        raise ConfigError(f"path is {path}, but must end in {suffix} for {name}.")
    obs, physics = play_episode(policy, seed, max_steps)
    if draw is None:
        content = _brax_page(policy, physics).encode()
        return _write(path, lambda file: file.write(content))
    first, *others = [draw(newest(policy.config, x)) for x in obs]
    options = {"format": "GIF", "save_all": True, "duration": milliseconds, "loop": 0}
    return _write(path, lambda file: first.save(file, append_images=others, **options))


def play_episode(policy: Policy, seed: int, max_steps: int) -> tuple[np.ndarray, Any]:
    """One episode of T steps, at most `max_steps`: observations [T + 1, *obs] and brax's physics states [T, ...].

    The last observation is the true last one; the physics are those before each step, and None elsewhere.
    """
    obs, physics, is_over = jax.tree.map(np.asarray, jax.jit(partial(_play, policy, max_steps))(jax.random.key(seed)))
    length = int(np.argmax(is_over)) + 1 if is_over.any() else max_steps
    return obs[: length + 1], jax.tree.map(lambda x: x[:length], physics)


def newest(config: TrainConfig, obs: np.ndarray) -> np.ndarray:
    """The environment's own latest observation of what networks see: without the elapsed time and earlier frames."""
    obs = obs[:-1] if config.time_aware else obs
    return obs[..., -(obs.shape[-1] // config.frame_stack) :]


@jax.default_matmul_precision("highest")  # as in training: physics
def _play(policy: Policy, max_steps: int, key: Array) -> tuple[Array, Any, Array]:
    """`max_steps` steps, whatever ends in between: observations [T + 1, ...], physics [T, ...], is_over [T]."""
    key_reset, key_steps = jax.random.split(key)
    first_obs, state = policy.env.reset(key_reset)
    is_brax = policy.config.env.startswith("brax/")

    def step(carry: tuple[Array, Any], key: Array) -> tuple[tuple[Array, Any], tuple[Array, Any, Array]]:
        obs, state = carry
        key_action, key_env = jax.random.split(key)
        result = policy.env.step(key_env, state, policy(obs, key_action))
        physics = innermost(state).physics if is_brax else None
        shown = result.final_obs, physics, result.terminated | result.truncated
        return (result.obs, result.state), shown

    _, (obs, physics, is_over) = jax.lax.scan(step, (first_obs, state), jax.random.split(key_steps, max_steps))
    return jax.numpy.concatenate([first_obs[None], obs]), physics, is_over


def _drawing(policy: Policy) -> tuple[Callable[[np.ndarray], Image.Image], int]:
    """How to draw an observation, and for how many milliseconds to show it."""
    params = {name: x for name, x in policy.config.env_params if name in ("length", "x_threshold")}
    cart_pole: Any = partial(draw_cart_pole, **params)
    known = {"gymnax/CartPole-v1": (cart_pole, 20), "gymnax/Acrobot-v1": (draw_acrobot, 50)}
    if policy.config.env in known:
        return known[policy.config.env]
    env = _bare(policy)
    if hasattr(env, "draw"):
        return lambda obs: Image.fromarray(np.asarray(env.draw(obs), np.uint8)), 100
    is_symbols = policy.config.env.startswith(("navix/", "xminigrid/"))
    if len(policy.env.observation_shape) == 3 and policy.env.observation_dtype == np.bool_ and not is_symbols:
        return draw_channels, 100
    raise ConfigError(
        f"env is {policy.config.env}, but only {', '.join(known)}, gymnax/...-MinAtar, gymnax/Pong-misc, octax/..., "
        "brax/... and "
        "environments of your own with a method draw, from an observation to an image [H, W, 3], can be drawn."
    )


def _bare(policy: Policy) -> Any:
    """The policy's environment with nothing wrapped around it."""
    config = policy.config
    options: Any = {"brax_backend": config.brax_backend, "max_episode_steps": config.max_episode_steps}
    return envs.make(config.env, **options, env_params=config.env_params)


def draw_channels(obs: np.ndarray) -> Image.Image:
    """A binary image [H, W, C]: one colour per channel on black."""
    picture = np.zeros((*obs.shape[:2], 3), np.uint8)
    for channel in range(obs.shape[2]):
        colour = _CHANNELS[channel % len(_CHANNELS)]
        picture[obs[..., channel]] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def draw_cart_pole(obs: np.ndarray, length: float = 0.5, x_threshold: float = 2.4) -> Image.Image:
    """Cart and pole, from x (of +-x_threshold) and the pole's angle from upright, clockwise.

    length: half of the pole's, as the environment has it.
    """
    x, _, angle = (float(value) for value in obs[:3])
    scale = min(1 / (2 * x_threshold + 0.4), 0.3 / length)  # of the side, per unit: the track and a margin, or the pole
    cart = np.array([0.5 + x * scale, 0.65])
    tip = cart + np.array([math.sin(angle), -math.cos(angle)]) * 2 * length * scale
    half = np.array([0.05, 0.0])  # of the cart's width
    track = [(0.5 - x_threshold * scale, 0.65), (0.5 + x_threshold * scale, 0.65)]
    return _lines([(track, _MUTED, 0.006), ([cart - half, cart + half], _INK, 0.06), ([cart, tip], _ACCENT, 0.02)])


def draw_acrobot(obs: np.ndarray) -> Image.Image:
    """Two links hanging from the middle, and the height that the tip must reach, one link above."""
    first = math.atan2(obs[1], obs[0])  # from straight down, counter-clockwise
    second = first + math.atan2(obs[3], obs[2])
    base, link = np.array([0.5, 0.5]), 0.22
    joint = base + link * np.array([math.sin(first), math.cos(first)])
    tip = joint + link * np.array([math.sin(second), math.cos(second)])
    goal = [(0.05, 0.5 - link), (0.95, 0.5 - link)]
    return _lines([(goal, _MUTED, 0.006), ([base, joint], _INK, 0.03), ([joint, tip], _ACCENT, 0.03)])


def _lines(lines: list[tuple[Any, str, float]]) -> Image.Image:
    """Lines (two ends, colour, width) in units of the side, the origin at the top left."""
    side = SIDE * _OVERSAMPLING
    picture = Image.new("RGB", (side, side), _PAPER)
    pencil = ImageDraw.Draw(picture)
    for ends, colour, width in lines:
        pencil.line([(float(x) * side, float(y) * side) for x, y in ends], colour, round(width * side))
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _brax_page(policy: Policy, physics: Any) -> str:
    """Brax's own viewer with the states, shown as fast as they happened."""
    from brax.io import html

    # Our adapter gives no access to brax's system: nothing else needs it.
    env = _bare(policy)
    system = env._env.sys.tree_replace({"opt.timestep": env._env.dt})
    length = len(jax.tree.leaves(physics)[0])
    return html.render(system, [jax.tree.map(lambda x, t=t: x[t], physics) for t in range(length)])


def _write(path: Path, write: Callable[[Any], Any]) -> Path:
    try:
        write_atomically(path, write)
    except OSError as error:
        raise ConfigError(f"path is {path}, which cannot be written: {error.strerror}.") from None
    return path

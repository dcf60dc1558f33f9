"""Figure 5: why clipping cannot hold a state whose features are collinear with another's. NumPy only.

A softmax policy with one linear layer, pi(a|s) = softmax(W s)_a, starts uniform. Two states with features x and
y = alpha x took the same action with advantage 1. Gradient steps of PPO's clipped objective go to x and to y in turn;
a state whose ratio has passed the limit has gradient 0, but the other's steps still move it: the gradient for y, an
outer product with y, changes the logits of x by x . y = alpha |x|^2 times as much.

The control is each state trained alone, with the same steps and no other state: it shows what a large step does by
itself. At a learning rate of 1.5 one step alone ends at a ratio of 1.64, and interference adds nothing to x.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from purejaxppo.errors import ConfigError
from purejaxppo.plots.channels import choose_channels, line_style
from purejaxppo.plots.scales import declutter
from purejaxppo.plots.sheets import SCREEN, Page, Sheet, house_style
from purejaxppo.plots.style import lay_out

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHAS = (-1.0, -0.5, 0.0, 0.5, 1.0, 3.0)
FEATURES = (1.0,)
NUM_ACTIONS = 2
CLIP_EPS = 0.2
LEARNING_RATE = 0.05
NUM_STEPS = 60
MAX_STEPS = 100_000
_BOTH, _ALONE = "on both states in turn", "on this state alone (control)"


def policy(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Action probabilities softmax(W s) [A] of weights W [A, D] and features s [D]."""
    logits = weights @ features
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def clipped_objective(
    weights: np.ndarray, features: np.ndarray, action: int, advantage: float, old: float, eps: float = CLIP_EPS
) -> float:
    """min(r A, clip(r, 1 - eps, 1 + eps) A), r = pi(a|s) / old: PPO-Clip of one sample (Schulman et al. 2017)."""
    ratio = policy(weights, features)[action] / old
    return float(min(ratio * advantage, np.clip(ratio, 1 - eps, 1 + eps) * advantage))


def clipped_gradient(
    weights: np.ndarray, features: np.ndarray, action: int, advantage: float, old: float, eps: float = CLIP_EPS
) -> np.ndarray:
    """Gradient of `clipped_objective` with respect to the weights: A r (e_a - pi) s^T [A, D], or 0 where it is clipped.

    It is clipped where A > 0 and r > 1 + eps, or A < 0 and r < 1 - eps.
    """
    probabilities = policy(weights, features)
    ratio = probabilities[action] / old
    if (advantage > 0 and ratio > 1 + eps) or (advantage < 0 and ratio < 1 - eps):
        return np.zeros_like(weights)
    return advantage * ratio * np.outer(np.eye(len(probabilities))[action] - probabilities, features)


def simulate(
    alpha: float, learning_rate: float = LEARNING_RATE, num_steps: int = NUM_STEPS, trained: tuple[int, ...] = (0, 1)
) -> np.ndarray:
    """Probability ratios of x and y = alpha x after each of `num_steps` gradient steps: [num_steps + 1, 2].

    Step t is one of state t mod 2 (0: x, 1: y), and no step at all where that is not in `trained`.
    Raises ConfigError for a learning rate that is not a positive number and for steps outside 1 to 100,000.
    """
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ConfigError(f"learning_rate is {learning_rate}, but must be a finite number greater than 0.")
    if not 1 <= num_steps <= MAX_STEPS:
        raise ConfigError(f"steps is {num_steps}, but must be at least 1 and at most {MAX_STEPS}.")
    x = np.array(FEATURES)
    states = (x, alpha * x)
    weights = np.zeros((NUM_ACTIONS, x.size))
    old = 1 / NUM_ACTIONS
    ratios = [np.ones(2)]
    for step in range(num_steps):
        if step % 2 in trained:
            weights = weights + learning_rate * clipped_gradient(weights, states[step % 2], 0, 1.0, old)
        ratios.append(np.array([policy(weights, state)[0] / old for state in states]))
    return np.stack(ratios)


def toy_figure(learning_rate: float = LEARNING_RATE, num_steps: int = NUM_STEPS, sheet: Sheet = SCREEN) -> Figure:
    """Figure 5: the ratios of both states against the clip range, one panel per alpha, with their controls.

    Raises ConfigError as `simulate` does.
    """
    curves = {}
    for alpha in ALPHAS:
        x, y = simulate(alpha, learning_rate, num_steps).T
        x_alone = simulate(alpha, learning_rate, num_steps, trained=(0,))[:, 0]
        y_alone = simulate(alpha, learning_rate, num_steps, trained=(1,))[:, 1]
        curves[alpha] = {("x", _BOTH): x, ("y", _BOTH): y, ("x", _ALONE): x_alone, ("y", _ALONE): y_alone}
    styles = [{"ratio of state": state, "gradient steps": steps} for state, steps in curves[ALPHAS[0]]]
    everything = np.concatenate([np.concatenate(list(lines.values())) for lines in curves.values()])
    subtitle = (
        f"Softmax policy with one linear layer, {NUM_ACTIONS} actions, uniform at first; x = {FEATURES[0]:g}, y = "
        f"alpha x; both took the same action with advantage 1; learning rate {learning_rate:g}. Grey: the clip range, "
        f"within {CLIP_EPS:g} of 1; above it a state has no gradient of its own: what moves it there is the other's."
    )
    with house_style(sheet):
        channels = choose_channels(styles)
        title = "Figure 5: collinear features carry ratios past the clip limit"
        figure, axes = lay_out(len(ALPHAS), channels, title, subtitle, Page(paper_columns=3), sheet)
        for number, (ax, (alpha, lines)) in enumerate(zip(axes, curves.items(), strict=True)):
            ax.set_title(f"alpha = {alpha:g}".replace("-", "\N{MINUS SIGN}"))
            ax.axhspan(1 - CLIP_EPS, 1 + CLIP_EPS, color="0.93", linewidth=0, zorder=0)
            for edge in (1 - CLIP_EPS, 1 + CLIP_EPS):
                ax.axhline(edge, color="0.6", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
            for point, ratios in zip(styles, lines.values(), strict=True):
                is_control = point["gradient steps"] == _ALONE
                style = line_style(channels, point)
                width = (1.1 if is_control else 1.8) * sheet.stroke
                ax.plot(np.arange(num_steps + 1), ratios, label=" ".join(point.values()), linewidth=width, **style)
            ax.set_xlim(0, num_steps)
            ax.set_ylim(min(everything.min(), 1 - CLIP_EPS) - 0.04, max(everything.max(), 1 + CLIP_EPS) + 0.04)
            if number % 3 == 0:
                ax.set_ylabel("pi_after / pi_before")
            if number >= len(ALPHAS) - 3:
                ax.set_xlabel("gradient steps")
        declutter(figure)
    return figure


def describe_toy(learning_rate: float = LEARNING_RATE, num_steps: int = NUM_STEPS) -> str:
    """A line per alpha: the last ratios of x and y, trained in turn and alone."""
    lines = ["alpha  x in turn  y in turn  x alone  y alone"]
    for alpha in ALPHAS:
        x, y = simulate(alpha, learning_rate, num_steps)[-1]
        x_alone = simulate(alpha, learning_rate, num_steps, trained=(0,))[-1, 0]
        y_alone = simulate(alpha, learning_rate, num_steps, trained=(1,))[-1, 1]
        lines.append(f"{alpha:5g}  {x:9.3f}  {y:9.3f}  {x_alone:7.3f}  {y_alone:7.3f}")
    return "\n".join(lines)

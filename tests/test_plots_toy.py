"""Figure 5's toy: gradients against finite differences, and what it shows, with its control."""

import numpy as np
import pytest

from purejaxppo.errors import ConfigError
from purejaxppo.plots.toy import (
    ALPHAS,
    CLIP_EPS,
    clipped_gradient,
    clipped_objective,
    describe_toy,
    policy,
    simulate,
    toy_figure,
)


@pytest.mark.parametrize("advantage", [1.0, -0.7])
@pytest.mark.parametrize("old", [0.05, 0.3, 0.31, 0.9])  # ratios far above, at about 1, far below
def test_gradient_is_that_of_finite_differences(advantage, old):
    rng = np.random.default_rng(1)
    weights, features = 0.3 * rng.normal(size=(3, 2)), rng.normal(size=2)
    gradient = clipped_gradient(weights, features, 1, advantage, old)
    numeric = np.zeros_like(weights)
    step = 1e-6
    for index in np.ndindex(weights.shape):
        shift = np.zeros_like(weights)
        shift[index] = step
        above = clipped_objective(weights + shift, features, 1, advantage, old)
        below = clipped_objective(weights - shift, features, 1, advantage, old)
        numeric[index] = (above - below) / (2 * step)
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_gradient_is_zero_only_where_the_clip_binds():
    weights, features = np.zeros((2, 1)), np.ones(1)  # pi = 1/2
    for advantage, old, is_clipped in [
        (1, 0.4, True),
        (1, 0.43, False),
        (1, 0.9, False),
        (-1, 0.7, True),
        (-1, 0.4, False),
    ]:
        assert np.all(clipped_gradient(weights, features, 0, advantage, old) == 0) == is_clipped


def test_first_step_by_hand():
    """W = 0, pi = 1/2: the step adds lr (1/2, -1/2) x to the logits, so pi_0 = sigmoid(lr x^2)."""
    ratios = simulate(3.0, learning_rate=0.1, num_steps=1)
    np.testing.assert_allclose(ratios[1], [2 / (1 + np.exp(-0.1)), 2 / (1 + np.exp(-0.3))])
    np.testing.assert_allclose(policy(np.zeros((4, 2)), np.ones(2)), 0.25)


def test_small_steps_pass_the_limit_only_where_the_other_state_pushes():
    limit = 1 + CLIP_EPS
    for alpha in ALPHAS:
        both = simulate(alpha, learning_rate=0.01, num_steps=1000)
        for state in (0, 1):
            alone = simulate(alpha, learning_rate=0.01, num_steps=1000, trained=(state,))
            assert alone[:, state].max() < limit + 0.03  # alpha = 3: nine times the step
        assert (both.max() > limit + 0.1) == (alpha in (0.5, 3.0))
    assert simulate(0.5, 0.01, 1000)[-1, 0] > limit + 0.1  # x is carried by y ...
    assert simulate(3.0, 0.01, 1000)[-1, 1] > limit + 0.3  # ... and y by x
    assert simulate(-0.5, 0.01, 1000)[-1, 1] < 0.95  # opposed: y falls, although its own steps raise it


def test_the_control_shows_that_one_large_step_overshoots_by_itself():
    both, alone = simulate(3.0, 1.5, 20), simulate(3.0, 1.5, 20, trained=(0,))
    np.testing.assert_allclose(alone[-1, 0], 2 / (1 + np.exp(-1.5)))  # 1.635, far above 1.2
    assert both[-1, 0] == alone[-1, 0]


def test_the_figure_shows_both_ratios_and_their_controls():
    figure = toy_figure(0.1, 30)
    for ax, alpha in zip(figure.axes, ALPHAS, strict=True):
        assert ax.get_title(loc="left") == f"alpha = {alpha:g}".replace("-", "\N{MINUS SIGN}")
        lines = {line.get_label(): line.get_ydata() for line in ax.lines if not str(line.get_label()).startswith("_")}
        assert len(lines) == 4
        both = simulate(alpha, 0.1, 30)
        np.testing.assert_array_equal(lines["x on both states in turn"], both[:, 0])
        np.testing.assert_array_equal(lines["y on both states in turn"], both[:, 1])
        alone = simulate(alpha, 0.1, 30, trained=(1,))[:, 1]
        np.testing.assert_array_equal(lines["y on this state alone (control)"], alone)
    assert len(describe_toy(0.1, 30).splitlines()) == 1 + len(ALPHAS)


@pytest.mark.parametrize(
    ("rate", "steps", "message"),
    [
        (0.0, 5, "learning_rate is 0.0"),
        (np.nan, 5, "nan"),
        (np.inf, 5, "inf"),
        (0.1, 0, "steps is 0"),
        (0.1, 10**9, "at most"),
    ],
)
def test_bad_input_is_refused(rate, steps, message):
    with pytest.raises(ConfigError, match=message):
        toy_figure(rate, steps)

"""TrainConfig, HyperParams and presets: what is accepted, what is refused and how, and the derived numbers."""

import dataclasses

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams, validate_hyperparams
from purejaxppo.presets import PRESETS, preset

examples = settings(deadline=None, max_examples=200, derandomize=True)


@st.composite
def configs(draw: st.DrawFn) -> TrainConfig:
    """Valid configurations of every size."""
    num_envs, num_steps = draw(st.integers(1, 64)), draw(st.integers(1, 256))
    whole_batches = st.integers(1, 1000).map(lambda n: n * num_envs * num_steps)
    return TrainConfig(
        total_steps=draw(st.one_of(st.integers(1, 10**8), whole_batches)),
        num_envs=num_envs,
        num_steps=num_steps,
        minibatch_size=draw(st.integers(1, num_envs * num_steps)),
        num_log_points=draw(st.integers(1, 1000)),
        advantage_normalization="off",  # a minibatch of one has nothing to normalise over
    ).validate()


@examples
@given(config=configs())
def test_a_run_has_at_least_the_steps_asked_for_and_little_more(config: TrainConfig) -> None:
    """Rounding up to whole batches and then to whole log intervals adds less than one interval in all."""
    steps = config.num_updates * config.batch_size
    assert config.total_steps <= steps < config.total_steps + config.steps_per_log


@examples
@given(config=configs())
def test_log_points_divide_the_updates_and_are_as_many_as_allowed(config: TrainConfig) -> None:
    """With one update less between them, the points allowed would not reach the end of the run."""
    denser = (config.updates_per_log - 1) * config.num_log_points * config.batch_size
    assert denser < config.total_steps
    assert 1 <= config.num_logs <= config.num_log_points
    assert config.num_logs * config.updates_per_log == config.num_updates
    assert config.steps_per_log == config.updates_per_log * config.batch_size


@examples
@given(config=configs())
def test_an_epoch_drops_less_than_one_minibatch(config: TrainConfig) -> None:
    used = config.num_minibatches * config.minibatch_size
    assert config.num_minibatches >= 1
    assert 0 <= config.batch_size - used < config.minibatch_size


def test_derived_numbers_of_the_default_by_hand() -> None:
    """8 x 128 = 1024 samples in 4 minibatches; 500,000 steps are 489 updates, one log point every 5: 98 of them."""
    config = TrainConfig(num_log_points=100)
    assert (config.batch_size, config.num_minibatches) == (1024, 4)
    assert (config.updates_per_log, config.num_logs, config.num_updates) == (5, 98, 490)


def test_equal_configurations_are_one_dictionary_key() -> None:
    """A configuration stands for a compiled program."""
    one, other = TrainConfig(hidden_sizes=(32,)), TrainConfig(hidden_sizes=(32,))
    assert {one: "program"}[other] == "program"
    assert TrainConfig(num_epochs=5) not in {one}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"total_steps": 0}, "total_steps is 0, but must be at least 1."),
        ({"num_envs": -1}, "num_envs is -1, but must be at least 1."),
        ({"num_steps": 0}, "num_steps is 0, but must be at least 1."),
        ({"num_epochs": 0}, "num_epochs is 0, but must be at least 1."),
        ({"minibatch_size": 0}, "minibatch_size is 0, but must be at least 1."),
        (
            {"minibatch_size": 1},
            "minibatch_size is 1, but must be at least 2 with advantage_normalization 'minibatch': "
            "one advantage less its own mean is 0.",
        ),
        (
            {"minibatch_size": 1, "num_envs": 1, "num_steps": 1, "advantage_normalization": "batch"},
            "num_envs x num_steps is 1, but must be at least 2 with advantage_normalization 'batch': "
            "one advantage less its own mean is 0.",
        ),
        ({"num_log_points": 0}, "num_log_points is 0, but must be at least 1."),
        ({"num_plasticity_epochs": 0}, "num_plasticity_epochs is 0, but must be at least 1."),
        (
            {"normalize_observations": True},
            "normalize_observations is True, but must be one of 'off', 'fixed', 'running'.",
        ),
        ({"max_episode_steps": 0}, "max_episode_steps is 0, but must be at least 1."),
        ({"hidden_sizes": ()}, "hidden_sizes is [], but must be a non-empty list of widths of at least 1."),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes is [64, 0], but must be a non-empty list of widths of at least 1."),
        (
            {"num_envs": 2, "num_steps": 8, "minibatch_size": 17},
            "minibatch_size is 17, but must be at most num_envs x num_steps = 2 x 8 = 16.",
        ),
        ({"total_steps": 1.5}, "total_steps is 1.5, but must be a whole number."),
        ({"num_epochs": True}, "num_epochs is True, but must be a whole number."),
        ({"share_trunk": 1}, "share_trunk is 1, but must be true or false."),
        ({"env": 3}, "env is 3, but must be a string."),
        ({"hidden_sizes": 64}, "hidden_sizes is 64, but must be a list of whole numbers."),
        ({"hidden_sizes": (64, 1.5)}, "hidden_sizes is (64, 1.5), but must be a list of whole numbers."),
        ({"max_episode_steps": "9"}, "max_episode_steps is '9', but must be a whole number or left out."),
        (
            {"convolutions": ((16, 3),)},
            "convolutions is ((16, 3),), but must be a list of lists of three whole numbers.",
        ),
        ({"convolutions": ((16, 3, 0),)}, "convolutions is ((16, 3, 0),), but must have numbers of at least 1."),
        ({"network": 3}, "network is 3, but must be a string or left out."),
        ({"interventions": (3,)}, "interventions is (3,), but must be a list of texts."),
        ({"diagnostics": 3}, "diagnostics is 3, but must be true or false or a list of texts."),
        ({"activation": "elu"}, "activation is 'elu', but must be one of 'relu', 'tanh', 'gelu', 'leaky_relu'."),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_sentence(fields: dict, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig(**fields).validate()
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *((field.name, -0.1, "must be") for field in dataclasses.fields(HyperParams)),
        *((field.name, float("nan"), "must be a") for field in dataclasses.fields(HyperParams)),
        ("learning_rate", float("inf"), "must be a finite number"),
        ("learning_rate", "3e-4", "must be a number"),
        ("learning_rate", True, "must be a number"),
        ("gamma", 1.01, "must be between 0 and 1"),
        ("gae_lambda", 1.01, "must be between 0 and 1"),
        ("adam_beta1", 1.0, "must be at least 0 and below 1"),
        ("adam_beta2", 1.0, "must be at least 0 and below 1"),
        ("adam_beta2", 1 - 1e-8, "must be at least 0 and below 1"),
        ("clip_eps", 0.0, "must be greater than 0"),
        ("max_grad_norm", 1e-46, "must be greater than 0"),
        ("max_grad_norm", 0.0, "must be greater than 0"),
        ("adam_eps", 0.0, "must be greater than 0"),
    ],
)
def test_wrong_hyper_parameters_are_refused_by_name(name: str, value: object, allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is .*, but {allowed}.*\.$"):
        validate_hyperparams(HyperParams(**{name: value}))


def test_the_ends_of_the_ranges_are_allowed() -> None:
    """No discounting, no learning, no regularisation, a clip range beyond 1: odd but meaningful."""
    for gamma in (0.0, 1.0, 1):
        hparams = HyperParams(
            learning_rate=0.0, gamma=gamma, gae_lambda=gamma, clip_eps=10.0, entropy_coef=0.0, value_coef=0.0,
            pfo_coef=0.0, adam_beta1=0.0, adam_beta2=0.0,
        )  # fmt: skip
        assert validate_hyperparams(hparams) is hparams


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_take_overrides(name: str) -> None:
    config, hparams = preset(name, total_steps=12_345)
    validate_hyperparams(hparams)
    assert config.validate().total_steps == 12_345


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("paper_atari", {"num_envs": 8, "num_steps": 128, "minibatch_size": 256, "activation": "relu",
                         "initialization": "uniform", "time_limit": "terminate", "lr_schedule": "constant",
                         "sticky_actions": 0.25, "sign_reward": True, "trunk_optimizers": "two",
                         "num_log_points": 1000, "num_plasticity_points": 40, "num_plasticity_epochs": 1,
                         "learning_rate": 2.5e-4, "clip_eps": 0.1, "entropy_coef": 0.01}),
        ("paper_mujoco", {"num_envs": 2, "num_steps": 1024, "minibatch_size": 64, "hidden_sizes": (64, 64),
                          "initialization": "uniform", "time_limit": "terminate", "normalize_observations": "fixed",
                          "time_aware": True, "trunk_optimizers": "two", "num_log_points": 1000,
                          "num_plasticity_points": 40, "num_plasticity_rollouts": 2, "num_plasticity_epochs": 4,
                          "learning_rate": 3e-4, "clip_eps": 0.2, "entropy_coef": 0.0}),
    ],
)  # fmt: skip
def test_presets_are_the_settings_of_the_paper(name: str, expected: dict) -> None:
    config, hparams = preset(name)
    found = dataclasses.asdict(config) | dataclasses.asdict(hparams)
    common = {"gamma": 0.99, "gae_lambda": 0.95, "value_coef": 0.5, "max_grad_norm": 0.5, "share_trunk": False,
              "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_eps": 1e-8, "pfo_coef": 0.0}  # fmt: skip
    assert {key: found[key] for key in common | expected} == common | expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # batch 2048 in 32 minibatches; vf_coef 0.5 times half the squared error; terminations or truncations end.
        ("cleanrl_continuous", {"batch_size": 2048, "num_minibatches": 32, "num_epochs": 10, "hidden_sizes": (64, 64),
                                "normalize_rewards": "running", "normalize_observations": "running", "value_coef": 0.25,
                                "time_limit": "terminate", "learning_rate": 3e-4, "adam_eps": 1e-5, "clip_eps": 0.2}),
        ("purejaxrl_minatar", {"batch_size": 64 * 128, "num_minibatches": 8, "num_epochs": 4, "activation": "relu",
                               "learning_rate": 5e-3, "lr_schedule": "linear", "entropy_coef": 0.01}),
        # batch_size 2048 x num_minibatches 32 x unroll_length 5 samples in an update; an own critic of 5 layers.
        ("brax_ant", {"batch_size": 2048 * 32 * 5, "num_minibatches": 32, "num_epochs": 4, "gamma": 0.97,
                      "critic_sizes": (256,) * 5, "hidden_sizes": (32,) * 4, "clip_eps": 0.3}),
    ],
)  # fmt: skip
def test_presets_are_the_settings_of_their_peers(name: str, expected: dict) -> None:
    config, hparams = preset(name)
    found = {key: getattr(hparams if hasattr(hparams, key) else config, key) for key in expected}
    assert found == expected
    assert config.value_clipping == (name != "brax_ant")


def test_an_unknown_preset_names_the_near_ones() -> None:
    with pytest.raises(ConfigError, match="preset 'paper_mujocoo' is unknown; did you mean paper_mujoco"):
        preset("paper_mujocoo")

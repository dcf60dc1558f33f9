"""What may differ between two compiled programs: the static configuration of a run.

`TrainConfig` is frozen and hashable. Whatever shapes an array, a loop or the graph of the program is here; the floats
that may differ between runs of one program are in `hyperparams.py`. This file imports no JAX.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from purejaxppo import own
from purejaxppo.errors import ConfigError
from purejaxppo.fields import EnvParams, check_types, coerce, hints_of

Torso = Literal["mlp", "minatar_conv", "nature_conv"]
Activation = Literal["relu", "tanh", "gelu", "leaky_relu"]
Initialization = Literal["uniform", "orthogonal"]
PolicyObjective = Literal["clip", "spo", "dpo", "unclipped"]
Normalization = Literal["off", "fixed", "running"]
AdvantageNormalization = Literal["minibatch", "batch", "off"]
ActionDistribution = Literal["tanh_normal", "normal"]
EvaluationActions = Literal["sample", "mode"]
BraxBackend = Literal["spring", "generalized", "positional", "mjx"]

MAX_COUNT = 2**31 - 1
"""Largest axis of an array and largest number of steps of a loop: XLA counts in int32."""

_LARGEST_LOG_STD = 20.0  # exp of it, squared, is still a float32

SELECTABLE = (
    "activation",
    "time_limit",
    "sign_reward",
    "lr_schedule",
    "reset_optimizer",
    "policy_objective",
    "kl_penalty",
    "kl_stop",
    "num_epochs",
)
"""Fields in which the runs of one program may differ. Each only selects between elementwise operations: a program whose
runs differ computes every alternative and selects; where all runs agree, it has that alternative alone. (The number of
epochs is the length of a loop: on a CPU that of a call, elsewhere runs with fewer are masked.)"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Static configuration: one value of this class is one XLA program, but for fields that only select between its
    branches (`SELECTABLE`), of which a sweep has all values in one.

    Raises `ConfigError` from `validate()` (called by everything that builds a program), never from the constructor.
    """

    env: str = "gymnax/CartPole-v1"
    """Environment name, `gymnax/...`, `brax/...`, `probe/...` or of a suite that is an extra, such as `craftax/...`;
    `purejaxppo envs` lists them. Or one of your own, by import path, `module:name`: what it leads to is called with
    max_episode_steps."""
    env_params: EnvParams = ()
    """Parameters of the environment other than its own default, by the name that its suite gives them, such as
    {gravity = 5.0} (`--env-params gravity 5.0`): gymnax's and craftax's parameters, keywords of brax's, playground's
    configuration."""
    total_steps: int = 500_000
    """Environment steps of a run, over all its environments; rounded up to whole log intervals."""
    num_envs: int = 8
    """Environments stepped in parallel by one run."""
    num_steps: int = 128
    """Steps of each environment in one rollout."""
    num_epochs: int = 4
    """Optimisation passes over each rollout."""
    minibatch_size: int = 256
    """Samples per gradient step; an incomplete last minibatch of an epoch is dropped."""

    network: str | None = None
    """A network of your own in place of torso and hidden layers, by import path, `module:Class`; `activation` then says
    only by which rule its dead units are counted."""
    torso: Torso = "mlp"
    """Layers before `hidden_sizes`: none (`mlp`, flattens), one 3x3 convolution of 16 channels (`minatar_conv`), or the
    three convolutions of the Nature DQN (`nature_conv`)."""
    convolutions: tuple[tuple[int, int, int], ...] = ()
    """Convolutions before `hidden_sizes` in place of the torso's, [channels, width of the kernel, stride] of each, such
    as [[16, 3, 1], [32, 3, 1]] (`--convolutions 16 3 1 32 3 1`)."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the dense hidden layers; the last one is the penultimate layer whose rank is measured."""
    critic_hidden_sizes: tuple[int, ...] = ()
    """Widths of the critic's dense hidden layers, where they are not to be the policy's, hidden_sizes ([])."""
    activation: Activation = "relu"
    """Activation of every hidden layer."""
    initialization: Initialization = "uniform"
    """Weights at the start: U(+-1/sqrt(fan_in)) for weights and biases (the paper), or orthogonal with zero biases."""
    share_trunk: bool = False
    """Whether actor and critic share all hidden layers (an intervention; the paper's default is separate networks)."""
    trunk_optimizers: Literal["one", "two"] = "one"
    """With share_trunk: one Adam and one gradient norm for trunk and both heads; or, as in the paper, one for trunk and
    policy head and one for trunk and critic head, so that the trunk's gradient is clipped twice and it moves twice."""
    residual: bool = False
    """Whether, from the second dense hidden layer on, a layer's input is added to its pre-activation where both have
    the same width (He et al. 2016, arXiv 1512.03385)."""
    layer_norm: bool = False
    """Whether every hidden layer is layer-normalised before its activation, over all its units (a convolution's whole
    map), with learned gain and bias; "pre-activations" are then the normalised input of the activation."""
    rms_norm: bool = False
    """Whether every hidden layer is divided by its root mean square before its activation, over the same units as with
    layer_norm, with learned gain (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    crelu: bool = False
    """Whether every hidden layer gives both relu(z) and relu(-z) of its pre-activations z, as in CReLU (Shang et al.
    2016, arXiv 1603.05201), and has half as many of them, so that it is as wide as hidden_sizes says; "pre-activations"
    are then (z, -z). With activation relu and even widths only."""
    matmul_precision: Literal["highest", "high", "default"] = "highest"
    """Precision of the networks' matrix products, in JAX's terms: float32 on every platform (`highest`), as in the
    paper, PyTorch's default; or what the platform is quickest at (`default`: TF32 on a GPU, bfloat16 on a TPU, where a
    small step of the weights can be less than is rounded away); or something between. On a CPU all are float32.
    A network of your own may say otherwise itself. Everything but the networks computes in float32 or float64."""
    action_distribution: ActionDistribution = "tanh_normal"
    """Continuous actions: tanh-squashed normal with state-dependent scale (the paper), or normal with one learned scale
    per action dimension; of continuous actions only."""
    initial_log_std: float = 0.0
    """With action_distribution normal: the learned log scale at the start, of actions scaled to [-1, 1]."""

    brax_backend: BraxBackend = "spring"
    """Physics of `brax/...` environments; no other environment has it."""
    max_episode_steps: int | None = None
    """Time limit of an episode in steps; None keeps the environment's own."""
    time_limit: Literal["bootstrap", "terminate"] = "bootstrap"
    """At a time limit: bootstrap from the value of the final observation, or treat it as a termination (the paper)."""
    time_aware: bool = False
    """Whether the time elapsed, from -1 at the start to 1 at the time limit, is appended to the observation (and never
    normalised)."""
    normalize_observations: Normalization = "off"
    """Observations as they are; standardised by statistics of random play before training (`fixed`, the paper); or by
    statistics of all observations so far (`running`), which move between updates and move the policy with them."""
    sticky_actions: float = 0.0
    """Probability that the environment repeats its previous action in place of the new one (the paper's Atari: 0.25);
    discrete actions only. Drawn once a step: in jaxtari for all of its frames, where ALE draws for each."""
    frame_stack: int = 1
    """Latest observations that the networks see side by side, along the last axis, the oldest first; after a reset the
    first one fills them all (the paper's Atari: 4). 1 is the observation as it is."""
    sign_reward: bool = False
    """Whether learning sees the sign of the reward (Atari); returns are reported raw either way."""
    normalize_rewards: Literal["off", "running"] = "off"
    """Rewards as they are (after sign_reward), or divided by the standard deviation of all discounted returns so far
    and clipped to [-10, 10] (`running`; see `ppo.rewards`); returns are reported raw either way."""

    lr_schedule: Literal["constant", "linear"] = "constant"
    """Learning rate over training: constant, or linear decay to lr_final_fraction of it."""
    lr_final_fraction: float = 0.0
    """With lr_schedule linear: the fraction of the learning rate that is left after the last update."""
    separate_learning_rates: bool = False
    """Whether the critic's Adam has a learning rate of its own, critic_learning_rate, under the same schedule."""
    reset_optimizer: bool = False
    """Whether Adam's moments and step count are zero again at the start of every update phase."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Adam (the paper), or Muon, which orthogonalises the momentum of every weight matrix, of heads too, and steps the
    other weights by Nesterov's Adam. The learning rate of both is the same; Muon's are usually larger than Adam's."""
    adam_rel: bool = False
    """Whether Adam's step count, by which it corrects the bias of its moments, is zero again at the start of every
    update phase, while the moments are kept."""
    policy_objective: PolicyObjective = "clip"
    """What the policy maximises: PPO-Clip, SPO, r A - |A| (r - 1)^2 / (2 clip_eps), DPO (discovered policy
    optimisation), r A less a drift, or the bare r A (`unclipped`), as in PPO-KL."""
    advantage_normalization: AdvantageNormalization = "minibatch"
    """Advantages of mean 0 and deviation 1 over each minibatch (the paper), over the whole rollout (`batch`), or as
    they are (`off`)."""
    value_clipping: bool = False
    """Whether the value loss is PPO2's clipped one: moves of V by more than value_clip_eps from what it was when the
    rollout was collected gain nothing."""
    pfo_layers: Literal["last", "all"] = "last"
    """Layers that PFO regularises: the penultimate one, or all hidden layers side by side."""
    pfo_features: Literal["preactivations", "features", "outputs"] = "preactivations"
    """What PFO holds: pre-activations of these layers (the paper), their post-activations, or the networks' outputs, as
    CHAIN does: KL(reference || present) of discrete actions (C-CHAIN's code: cross-entropy, of the same gradient), for
    continuous ones the mean squared difference of the means (before tanh), of the critic that of V."""
    pfo_distance: Literal["l2", "cosine"] = "l2"
    """PFO's distance: mean squared difference per dimension, or 1 - cosine similarity per sample."""
    pfo_reference: Literal["rollout", "previous"] = "rollout"
    """What PFO holds the networks to: those that collected the rollout (the paper), or those of one gradient step
    before, as CHAIN does (at the very first step these are the present ones)."""
    pfo_states: Literal["minibatch", "other"] = "minibatch"
    """States on which PFO holds them: those of the gradient step's minibatch (the paper), or of another one, the next
    of the same shuffled epoch, after the last the first (CHAIN's code shuffles once more for them): change outside the
    minibatch is churn. With two minibatches an epoch the other one is that of the step before, too."""
    pfo_auto: bool = False
    """Whether coefficients of PFO other than 0 adapt, as in CHAIN: after pfo_warmup rollouts, which have pfo_coef and
    critic_pfo_coef, the term is to be pfo_target_share of the size of the policy loss (critic: of the value loss)."""
    pfo_mode: Literal["penalty", "clip"] = "penalty"
    """PFO on the policy: a penalty times pfo_coef, or no policy gradient from samples whose distance exceeds pfo_limit
    (pfo_coef is then unused; the critic's PFO is a penalty either way)."""
    kl_penalty: bool = False
    """Whether beta E[KL(old || new)] is added to the loss, beta starting at kl_coef and adapted after every rollout."""
    kl_stop: bool = False
    """Whether a rollout's gradient steps end with that of the first minibatch whose KL(old || new) exceeds
    kl_stop_limit (which is still made, as in the paper)."""
    weight_spectral: bool = False
    """Whether weight_spectral_coef times the sum over all layers of (spectral norm - 1)^2 is added to the loss."""
    feature_spectral: bool = False
    """Whether the concentration of the penultimate features' spectrum, sum sigma^4 / (sum sigma^2)^2 on a minibatch, is
    penalised, by feature_spectral_coef (policy) and critic_feature_spectral_coef."""
    l2_init: bool = False
    """Whether l2_init_coef times the squared distance of all weights from the initial ones is added to the loss."""
    parseval: bool = False
    """Whether parseval_coef times the sum over all hidden layers of ||W W^T - parseval_scale I||^2 is added to the
    loss."""
    weight_decay: bool = False
    """Whether every gradient step also takes learning rate x weight_decay_rate of all weights away, as AdamW does."""
    shrink_and_perturb: Literal["off", "soft", "hard"] = "off"
    """Whether all weights move towards freshly initialised ones: by perturbation after every gradient step (`soft`), or
    to shrink times themselves plus perturb times fresh ones after the last update of reset_interval (`hard`)."""
    weight_clipping: bool = False
    """Whether, after every gradient step, weights and biases are clipped to +-weight_clip_scale / sqrt(fan_in)."""
    weight_projection: bool = False
    """Whether, after every gradient step, every hidden layer's weight matrix is scaled to the Frobenius norm that it
    had at the start, and its biases with it; for networks with layer_norm or rms_norm."""
    unit_resets: Literal["off", "redo", "regrama", "continual_backprop"] = "off"
    """Hidden units (of convolutions: channels) that are made anew, with fresh weights to them and none from them: those
    whose mean |activation| is small beside their layer's (`redo`), or whose mean |dLoss / dactivation| is (`regrama`),
    both on as many random samples of the rollout as a minibatch has, after the last update of reset_interval; or, step
    by step, a small share of the units that are old and contribute least (`continual_backprop`; PFO then holds a new
    unit to the pre-activations of the old one until the rollout ends)."""
    reset_interval: int = 10
    """With unit_resets redo or regrama, or shrink_and_perturb hard: updates from one reset to the next (Plasticine's
    PPO: 10)."""
    interventions: tuple[str, ...] = ()
    """Interventions of your own, by import path, `module:name`; their strengths are hyper-parameters, which a sweep
    file names (`pjp.OwnHyperParams(strengths={...})` in Python)."""

    num_log_points: int = 100
    """Most points at which metrics are written after the one before training, evenly spaced; fewer when the updates do
    not divide evenly."""
    diagnostics: bool | tuple[str, ...] = True
    """Whether representation and trust-region diagnostics are computed at the log points; or import paths,
    `module:name`, of your own that are computed beside them."""
    num_plasticity_points: int = 40
    """Most log points at which the plasticity loss is measured after the one before training, evenly spaced; 0 (or no
    diagnostics) for none."""
    num_plasticity_rollouts: int = 4
    """Rollouts of the initial policy that the plasticity loss is measured on."""
    num_plasticity_epochs: int = 1
    """Passes over them in one measurement (the paper: 1 on Atari, 4 on MuJoCo)."""
    plasticity_curve: bool = False
    """Whether the losses of all minibatches of a plasticity measurement are kept, not only of the last one."""
    num_evaluation_episodes: int = 0
    """Episodes that the policy plays to their end at an evaluation, in environments and with keys of their own; 0 for
    none."""
    num_evaluation_points: int = 40
    """With num_evaluation_episodes: most log points with an evaluation after the one before training, evenly spaced."""
    evaluation_actions: EvaluationActions = "sample"
    """With num_evaluation_episodes: actions are samples from the policy, or the mode of its distribution."""
    num_snapshots: int = 0
    """Most log points at which a sweep keeps the networks, beside those before training, evenly spaced (the paper: 40);
    0 for none."""

    def __post_init__(self) -> None:
        """Lists become tuples, and floats that are whole numbers (1e6) such, where the field wants them."""
        for name, hint in hints_of(type(self)).items():
            value = getattr(self, name)
            if (fitting := coerce(name, value, hint)) is not value:
                object.__setattr__(self, name, fitting)

    @property
    def batch_size(self) -> int:
        """Samples of one rollout, num_envs x num_steps."""
        return self.num_envs * self.num_steps

    @property
    def num_minibatches(self) -> int:
        """Whole minibatches in one epoch."""
        return self.batch_size // self.minibatch_size

    @property
    def updates_per_log(self) -> int:
        """Updates between two log points."""
        updates = -(-self.total_steps // self.batch_size)
        return -(-updates // self.num_log_points)

    @property
    def num_logs(self) -> int:
        """Log points of a run after number 0, which is before training; at most `num_log_points`."""
        updates = -(-self.total_steps // self.batch_size)
        return -(-updates // self.updates_per_log)

    @property
    def num_updates(self) -> int:
        """Updates of a run: whole log intervals."""
        return self.num_logs * self.updates_per_log

    @property
    def steps_per_log(self) -> int:
        """Environment steps between two log points."""
        return self.updates_per_log * self.batch_size

    @property
    def measures_plasticity(self) -> bool:
        """Whether the plasticity loss is measured at all."""
        return bool(self.diagnostics) and self.num_plasticity_points > 0

    @property
    def num_plasticity_minibatches(self) -> int:
        """Whole minibatches in one pass of a measurement of the plasticity loss."""
        return self.num_plasticity_rollouts * self.batch_size // self.minibatch_size

    def is_plasticity_point(self, log_point: int) -> bool:
        """Whether the plasticity loss is measured at a log point."""
        return self._is_due(self.num_plasticity_points if self.measures_plasticity else 0, log_point)

    def is_evaluation_point(self, log_point: int) -> bool:
        """Whether the policy is evaluated at a log point."""
        return self._is_due(self.num_evaluation_points if self.num_evaluation_episodes else 0, log_point)

    def is_snapshot_point(self, log_point: int) -> bool:
        """Whether a sweep keeps the networks at a log point."""
        return self._is_due(self.num_snapshots, log_point)

    def _is_due(self, num_points: int, log_point: int) -> bool:
        """Whether what is done at some log points is done at this one; the initial (0) and the last one always are."""
        if log_point == 0 or num_points == 0:
            return num_points > 0
        points = min(num_points, self.num_logs)
        return log_point * points // self.num_logs > (log_point - 1) * points // self.num_logs

    def validate(self) -> TrainConfig:
        """Check every rule that needs no environment; returns self.

        Raises ConfigError with one sentence naming the field, the value and what is allowed.
        """
        check_types(self)
        sizes = ("total_steps", "num_envs", "num_steps", "num_epochs", "minibatch_size", "num_log_points")
        sizes += ("num_plasticity_rollouts", "num_plasticity_epochs", "num_evaluation_points")
        sizes += ("frame_stack", "reset_interval")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise ConfigError(
                f"hidden_sizes is {list(self.hidden_sizes)}, but must be a non-empty list of widths of at least 1."
            )
        self._validate_paths()
        names = [name for name, _ in self.env_params]
        if len(set(names)) < len(names):
            raise ConfigError(f"env_params names {', '.join(names)}, but must name nothing twice.")
        for name, value in self.env_params:
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"env_params has {name} = {value}, but must be a finite number.")
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps is {self.max_episode_steps}, but must be at least 1.")
        if self.convolutions and self.torso != "mlp":
            raise ConfigError(f"torso is {self.torso!r}, but must be 'mlp' with convolutions of their own.")
        if any(min(layer) < 1 for layer in self.convolutions):
            raise ConfigError(f"convolutions is {self.convolutions}, but must have numbers of at least 1.")
        self._validate_network()
        if not 0 <= self.sticky_actions < 1:
            raise ConfigError(f"sticky_actions is {self.sticky_actions}, but must be at least 0 and below 1.")
        for name in ("num_plasticity_points", "num_evaluation_episodes", "num_snapshots"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least 0.")
        self._validate_optimization()
        if self.minibatch_size > self.batch_size:
            raise ConfigError(
                f"minibatch_size is {self.minibatch_size}, but must be at most num_envs x num_steps = "
                f"{self.num_envs} x {self.num_steps} = {self.batch_size}."
            )
        self._validate_pfo()
        self._validate_counts()
        return self

    @property
    def critic_sizes(self) -> tuple[int, ...]:
        """Widths of the critic's dense hidden layers, whether they are its own or the policy's."""
        return self.critic_hidden_sizes or self.hidden_sizes

    @property
    def own_diagnostics(self) -> tuple[str, ...]:
        """Import paths of the diagnostics that are not ours."""
        return self.diagnostics if isinstance(self.diagnostics, tuple) else ()

    @property
    def own_modules(self) -> tuple[str, ...]:
        """Modules that the configuration's import paths lead to, each once."""
        paths = (self.env, self.network or "", *self.own_diagnostics, *self.interventions)
        return tuple(dict.fromkeys(path.split(":")[0] for path in paths if own.is_path(path)))

    def _validate_counts(self) -> None:
        """What XLA counts in int32: sizes of axes, and steps of loops."""
        counts = {
            "num_envs x num_steps": self.batch_size,
            "num_epochs x minibatches of an epoch": self.num_epochs * self.num_minibatches,
            "total_steps / (num_envs x num_steps), the number of updates,": self.num_updates,
            "the largest of hidden_sizes": max(self.hidden_sizes),
            "the largest of critic_hidden_sizes": max(self.critic_sizes),
            "num_log_points": self.num_log_points,
            "num_plasticity_rollouts x num_envs x num_steps": self.num_plasticity_rollouts * self.batch_size,
            "num_plasticity_epochs x minibatches of an epoch": (
                self.num_plasticity_epochs * self.num_plasticity_minibatches
            ),
            "num_plasticity_points": self.num_plasticity_points,
            "num_evaluation_episodes": self.num_evaluation_episodes,
            "num_evaluation_points": self.num_evaluation_points,
            "num_snapshots": self.num_snapshots,
            "reset_interval": self.reset_interval,
            "max_episode_steps": self.max_episode_steps or 1,
        }
        for name, count in counts.items():
            if count > MAX_COUNT:
                raise ConfigError(f"{name} is {count}, but must be at most {MAX_COUNT}.")

    def _validate_optimization(self) -> None:
        """Rules of the learning rates, of what the critic has to itself, and of the scale at the start."""
        if not 0 <= self.lr_final_fraction < 1:
            raise ConfigError(f"lr_final_fraction is {self.lr_final_fraction}, but must be at least 0 and below 1.")
        if not abs(self.initial_log_std) <= _LARGEST_LOG_STD:
            raise ConfigError(
                f"initial_log_std is {self.initial_log_std}, but must be between -{_LARGEST_LOG_STD} and "
                f"{_LARGEST_LOG_STD}."
            )
        if {"minibatch": self.minibatch_size, "batch": self.batch_size}.get(self.advantage_normalization) == 1:
            name = "minibatch_size" if self.advantage_normalization == "minibatch" else "num_envs x num_steps"
            raise ConfigError(
                f"{name} is 1, but must be at least 2 with advantage_normalization '{self.advantage_normalization}': "
                "one advantage less its own mean is 0."
            )
        if self.adam_rel and self.reset_optimizer:
            raise ConfigError("adam_rel is True, but must be False with reset_optimizer, which resets the moments too.")
        if self.optimizer == "muon" and self.adam_rel:
            raise ConfigError(
                "adam_rel is True, but must be False with optimizer 'muon', which counts no steps of Adam."
            )
        if self.optimizer == "muon" and self.share_trunk and self.trunk_optimizers == "two":
            raise ConfigError(
                "optimizer is 'muon', but must be 'adam' with share_trunk and trunk_optimizers 'two': a matrix that is "
                "stepped twice does not move by an orthogonal one."
            )
        sizes = list(self.critic_hidden_sizes)
        if min(self.critic_sizes) < 1:
            raise ConfigError(f"critic_hidden_sizes is {sizes}, but must be a list of widths of at least 1.")
        if self.share_trunk and self.critic_hidden_sizes:
            raise ConfigError(f"critic_hidden_sizes is {sizes}, but must be [] with share_trunk, which shares them.")
        if self.share_trunk and self.trunk_optimizers == "one" and self.separate_learning_rates:
            raise ConfigError(
                "separate_learning_rates is True, but must be False with share_trunk and trunk_optimizers 'one': one "
                "optimiser has one learning rate."
            )

    def _validate_pfo(self) -> None:
        """What a PFO term that is no penalty cannot have, and that another minibatch needs two of them."""
        for field, paper in (("pfo_reference", "rollout"), ("pfo_states", "minibatch")):
            if self.pfo_mode == "clip" and getattr(self, field) != paper:
                raise ConfigError(
                    f"pfo_mode is 'clip', but must be 'penalty' with {field} {getattr(self, field)!r}: what it clips "
                    "is the change of a minibatch's own samples since the rollout."
                )
        if self.pfo_states == "other" and self.num_minibatches < 2:
            raise ConfigError(
                f"pfo_states is 'other', but must be 'minibatch' where an epoch has one minibatch, of minibatch_size "
                f"{self.minibatch_size} from {self.batch_size} samples."
            )

    def _validate_network(self) -> None:
        """What goes together, and what a network of the user's own cannot have: its layers are its own."""
        if self.layer_norm and self.rms_norm:
            raise ConfigError("rms_norm is True, but must be False with layer_norm: a layer has one normalisation.")
        if self.weight_projection and not (self.layer_norm or self.rms_norm):
            raise ConfigError(
                "weight_projection is True, but must be False without layer_norm or rms_norm: only there a layer does "
                "without the norm of its weights."
            )
        if self.crelu:
            self._validate_crelu()
        if self.unit_resets != "off":
            self._validate_unit_resets()
        if self.network is None:
            return
        plain = TrainConfig()
        fields = ("torso", "convolutions", "critic_hidden_sizes", "residual", "layer_norm", "rms_norm", "crelu")
        for field in (*fields, "unit_resets"):
            if getattr(self, field) != getattr(plain, field):
                raise ConfigError(
                    f"{field} is {getattr(self, field)!r}, but must be {getattr(plain, field)!r} with network "
                    f"{self.network!r}, whose layers are its own."
                )
        if (self.pfo_layers, self.pfo_features) == ("all", "features"):
            raise ConfigError(
                f"pfo_features is 'features' with pfo_layers 'all', but must be 'preactivations' with network "
                f"{self.network!r}: of features it gives the last ones only."
            )

    def _validate_crelu(self) -> None:
        """What CReLU takes: halves of layers, and the ReLU."""
        if self.activation != "relu":
            raise ConfigError(f"activation is {self.activation!r}, but must be 'relu' with crelu.")
        if self.residual:
            raise ConfigError("residual is True, but must be False with crelu, whose pre-activations are (z, -z).")
        channels = tuple(layer[0] for layer in self.convolutions)
        for name, widths in (("hidden_sizes", self.hidden_sizes), ("critic_hidden_sizes", self.critic_hidden_sizes)):
            if any(width % 2 for width in widths):
                raise ConfigError(f"{name} is {list(widths)}, but must have even widths with crelu.")
        if any(width % 2 for width in channels):
            raise ConfigError(
                f"convolutions is {self.convolutions}, but must have even numbers of channels with crelu."
            )

    def _validate_unit_resets(self) -> None:
        """What resets of units do not go with."""
        reasons = {
            "residual": (self.residual, "skip connections lead away from units without weights that could be set to 0"),
            "crelu": (self.crelu, "units come in pairs of the same weights"),
            "optimizer 'muon'": (self.optimizer == "muon", "momentum of a matrix is not one of its units"),
        }
        for name, (is_set, why) in reasons.items():
            if is_set:
                raise ConfigError(f"unit_resets is {self.unit_resets!r}, but must be 'off' with {name}, whose {why}.")

    def _validate_paths(self) -> None:
        """Of what is the user's own only the form: nothing is imported here."""
        if self.diagnostics == ():
            raise ConfigError("diagnostics is [], but must be true, false or a list of import paths, module:name.")
        for field in ("network", "own_diagnostics", "interventions"):
            value = getattr(self, field)
            paths = value if isinstance(value, tuple) else () if value is None else (value,)
            for path in paths:
                own.check_path(field.removeprefix("own_"), path)
            if len(set(paths)) < len(paths):
                raise ConfigError(f"{field.removeprefix('own_')} is {list(paths)}, but must name nothing twice.")

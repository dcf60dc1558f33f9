"""What a run is made of: the static program, and the state that continues from one segment to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from purejaxppo import envs, own
from purejaxppo.config import TrainConfig
from purejaxppo.distributions import Categorical, Normal, PolicyDistribution, TanhNormal
from purejaxppo.envs.base import Discrete, Environment
from purejaxppo.envs.wrappers import EpisodeStatistics, ObservationStatistics
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams, OwnHyperParams
from purejaxppo.networks import ACTIVATIONS, ActorCritic, NetworkOutput, Networks, Params, make_actor_critic
from purejaxppo.ppo.rewards import RewardStatistics
from purejaxppo.products import is_left_boolean

Array = jax.Array
T = TypeVar("T")

_LARGE = 2**21  # bytes of observations, as floats, that a processor's cache still holds

for _cls in (HyperParams, OwnHyperParams):
    jax.tree_util.register_dataclass(
        _cls, data_fields=[field.name for field in dataclasses.fields(_cls)], meta_fields=[]
    )


@struct.dataclass(kw_only=True)
class KLControl:
    """Memory of the KL penalty and the early stop, scalars."""

    factor: Array
    """What kl_coef has been multiplied by since the start of training."""
    kl: Array
    """KL(old || new) of the latest minibatch, in nat, before its gradient step."""
    is_stopped: Array
    """Whether the gradient steps of this rollout have ended."""
    steps_done: Array
    """Number of gradient steps of this rollout so far."""


@struct.dataclass(kw_only=True)
class Origin:
    """Where the latest update of a run began: from here its rollout can be collected again."""

    params: Params
    observation_statistics: ObservationStatistics | None
    reward_statistics: RewardStatistics | None
    env_state: Any
    obs: Array


@struct.dataclass(kw_only=True)
class RunState:
    """Everything needed to continue a run: a checkpoint is this and nothing else."""

    params: Params
    optimizer: dict[str, optax.OptState]
    """Adam's moments, flat, by optimiser; see `interventions.optimizers`."""
    env_state: Any
    obs: Array
    """Current observations [N, *obs]."""
    episodes: EpisodeStatistics
    observation_statistics: ObservationStatistics | None
    key: Array
    """The run's key; never consumed, only folded with the update's number."""
    update: Array
    """Number of updates done."""
    status: Array
    """0 while healthy; else the log point at which the run diverged and was frozen."""
    choices: dict[str, Array] = struct.field(default_factory=dict)
    """Of each field in which the runs of the program differ, which of its alternatives this run has; see `Learner`."""
    kl_control: KLControl | None = None
    """Memory of kl_penalty and kl_stop; None without either."""
    power_vectors: dict[str, Array] | None = None
    """With weight_spectral: of every weight matrix W, the vector v [fan_out] whose |W v| is about its spectral norm."""
    memory: dict[str, Any] = struct.field(default_factory=dict)
    """What interventions remember between gradient steps, by name; empty where none does."""
    reward_statistics: RewardStatistics | None = None
    """What `normalize_rewards` divides by; None without."""
    origin: Origin | None = None
    """With num_snapshots: where the latest update began (before the first: the run); None without."""


def origin_of(learner: Learner, state: RunState) -> Origin | None:
    """What a run that keeps snapshots remembers of the state in which an update begins."""
    if not learner.config.num_snapshots:
        return None
    return Origin(
        params=state.params,
        observation_statistics=state.observation_statistics,
        reward_statistics=state.reward_statistics,
        env_state=state.env_state,
        obs=state.obs,
    )


@struct.dataclass(kw_only=True)
class Batch:
    """One rollout as the update sees it, B = T * N samples; of a minibatch and in penalties of your own, B of these.

    obs [B, *observation_shape]: as the environment gave them, not normalised. action [B] int32, or [B, A] float32
    before tanh and before clipping to bounds. log_prob [B]: nat, at the rollout. policy_outputs [B, outputs]: logits,
    or loc and scale, at the rollout. advantage, value_target, value [B]: in units of the (normalised) reward.
    """

    obs: Array
    action: Array
    log_prob: Array
    policy_outputs: Array
    policy_phi: Array
    """What PFO compares with, phi_old [B, D]: see `pfo_layers` and `pfo_features`."""
    critic_phi: Array
    advantage: Array
    """With `advantage_normalization = "batch"` of mean 0 and deviation 1, else as it was estimated."""
    value_target: Array
    other: Batch | None = None
    """Beside a minibatch another one of the same epoch, where something looks at it; None for the whole rollout."""
    value: Array | None = None
    """With value_clipping: what the critic said; else None."""


@dataclass(frozen=True)
class Learner:
    """The static parts of a program: environment, networks, distribution, and what its runs may differ in.

    alternatives: of each `config.SELECTABLE` field in which runs differ, the values; `config` has one of them.
    absent: loss terms whose coefficient is 0 in every run, which are left out; see `losses.COEFFICIENTS`.
    max_epochs: None where all runs of a call have the same number of epochs; else the largest, and runs that are to
        have fewer are masked, as a program for a GPU wants it: no loop of unknown length.
    """

    config: TrainConfig
    env: Environment
    networks: ActorCritic
    distribution: PolicyDistribution
    alternatives: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    absent: frozenset[str] = frozenset()
    max_epochs: int | None = None
    diagnostics: tuple[own.Diagnostic, ...] = ()
    """Of the user's own."""
    interventions: tuple[own.Intervention, ...] = ()
    """Of the user's own."""

    def values(self, field: str) -> tuple[Any, ...]:
        """All values that runs of this program have in a field of the configuration."""
        return dict(self.alternatives).get(field, (getattr(self.config, field),))

    def choose(self, choices: dict[str, Array], field: str, branch: Callable[[Any], T]) -> T:
        """`branch(value)` of this run's value of a field: of all values where runs differ, and then selected."""
        results = [branch(value) for value in self.values(field)]
        if len(results) == 1:
            return results[0]
        return jax.tree.map(lambda *each: jax.lax.select_n(choices[field], *map(jnp.asarray, each)), *results)

    def activation(self, choices: dict[str, Array]) -> Callable[[Array], Array]:
        """The activation of this run's hidden layers."""
        names = self.values("activation")
        if len(names) == 1:
            return ACTIVATIONS[names[0]]

        def selected(z: Array) -> Array:  # those not chosen see zeros: their derivative may overflow where z is huge
            inputs = [jnp.where(choices["activation"] == i, z, 0.0) for i in range(len(names))]
            every = [ACTIVATIONS[name](x) for name, x in zip(names, inputs, strict=True)]
            return jax.lax.select_n(choices["activation"], *every)

        return selected

    def network_input(self, statistics: ObservationStatistics | None, obs: Array) -> Array:
        """Observations as the networks see them: float32, normalised where the configuration says so, pixels to 1.

        Boolean ones, which are neither, as they are where `products.product` is the quicker for it.
        """
        if statistics is not None:
            return statistics.normalize(obs.astype("float32"), self.config.normalize_observations)
        scale = getattr(self.env, "observation_scale", 1)  # a learner of batches alone has no environment
        if scale == 1 and is_left_boolean(obs.dtype):
            return obs
        obs = obs.astype("float32")
        return obs if scale == 1 else obs / scale

    def updated_statistics(self, statistics: ObservationStatistics, obs: Array) -> ObservationStatistics:
        """Statistics with observations [M, *obs] merged in; the elapsed time of a time-aware one is left alone."""
        statistics = statistics.update(obs)
        return statistics.without_last() if self.config.time_aware else statistics

    def policy(self, state: RunState, obs: Array) -> NetworkOutput:
        """The policy network of a run on observations [..., *obs] as the environment gives them."""
        obs = self.network_input(state.observation_statistics, obs)
        return self.networks.policy(state.params, obs, self.activation(state.choices))

    def critic(self, state: RunState, obs: Array) -> NetworkOutput:
        """The value network of a run on observations [..., *obs]; outputs [..., 1]."""
        obs = self.network_input(state.observation_statistics, obs)
        return self.networks.critic(state.params, obs, self.activation(state.choices))

    def both(self, state: RunState, obs: Array) -> tuple[NetworkOutput, NetworkOutput]:
        """Policy and critic; a shared trunk is evaluated once."""
        obs = self.network_input(state.observation_statistics, obs)
        return self.networks.both(state.params, obs, self.activation(state.choices))

    def networks_of(self, state: RunState, outputs: tuple[NetworkOutput, NetworkOutput]) -> Networks:
        """The networks of a run, and what they give for a batch, as functions of the user's own get them."""
        policy, critic = outputs

        def both(params: Params, obs: Array) -> tuple[NetworkOutput, NetworkOutput]:
            # As floats, whose products can be differentiated forwards as well.
            return self.both(dataclasses.replace(state, params=params), obs.astype("float32"))

        return Networks(
            policy=policy,
            critic=critic,
            params=state.params,
            both=partial(both, state.params),
            apply=both,
            log_prob=self.distribution.log_prob,
        )

    def passed_at_once(self, obs: Array) -> int:
        """How many of a rollout's observations [T * N, *obs] the networks get at a time: a minibatch, if large."""
        size = self.config.minibatch_size
        return obs.shape[0] if 4 * obs.size <= _LARGE or obs.shape[0] % size else size

    def both_of_rollout(self, state: RunState, obs: Array) -> tuple[NetworkOutput, NetworkOutput]:
        """Policy and critic on a rollout's observations [T * N, *obs], many large ones a minibatch at a time.

        What lies between observations and outputs, floats and patches, then stays in a processor's cache, and does not
        fill an accelerator's memory.
        """
        size = self.passed_at_once(obs)
        if size == obs.shape[0]:
            return self.both(state, obs)
        outputs = jax.lax.map(lambda obs: self.both(state, obs), obs.reshape(-1, size, *obs.shape[1:]))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)


def make_learner(
    config: TrainConfig,
    *,
    alternatives: tuple[tuple[str, tuple[Any, ...]], ...] = (),
    absent: frozenset[str] = frozenset(),
    max_epochs: int | None = None,
) -> Learner:
    """Environment, networks and action distribution of a configuration; the options are those of `Learner`.

    Raises ConfigError for any setting that is impossible, before anything is compiled.
    """
    if jax.config.values["jax_enable_x64"]:
        raise ConfigError("jax_enable_x64 is True, but must be False: runs compute in float32 (unset JAX_ENABLE_X64).")
    if (kind := jax.config.values["jax_default_prng_impl"]) != "threefry2x32":
        raise ConfigError(
            f"jax_default_prng_impl is {kind!r}, but must be 'threefry2x32': vmapped, other generators draw for all "
            "runs from the first one's key (unset JAX_DEFAULT_PRNG_IMPL)."
        )
    config.validate()
    env = envs.make(
        config.env,
        brax_backend=config.brax_backend,
        time_aware=config.time_aware,
        sticky_actions=config.sticky_actions,
        frame_stack=config.frame_stack,
        max_episode_steps=config.max_episode_steps,
        env_params=config.env_params,
    )
    if config.num_evaluation_episodes and env.max_episode_steps is None:
        raise ConfigError(
            f"num_evaluation_episodes is {config.num_evaluation_episodes}, but must be 0 for {config.env}, whose "
            "episodes need not end, unless max_episode_steps is set."
        )
    distribution = make_distribution(config, env)
    networks = make_actor_critic(
        config,
        env.observation_shape,
        distribution.num_outputs,
        state_independent_scale=distribution.state_independent_scale,
    )
    config = dataclasses.replace(config, hidden_sizes=networks.hidden_sizes)  # those of a network of the user's own
    return Learner(
        config,
        env,
        networks,
        distribution,
        alternatives,
        absent,
        max_epochs,
        diagnostics=tuple(map(own.find_diagnostic, config.own_diagnostics)),
        interventions=tuple(map(own.find_intervention, config.interventions)),
    )


def make_distribution(config: TrainConfig, env: Environment) -> PolicyDistribution:
    """Action distribution for an environment's action space."""
    space = env.action_space
    if isinstance(space, Discrete):
        return Categorical(space.n)
    if len(space.shape) != 1:
        raise ConfigError(
            f"env {config.env} has actions of shape {list(space.shape)}; allowed are discrete or one-axis actions."
        )
    kind = TanhNormal if config.action_distribution == "tanh_normal" else Normal
    return kind(space.low, space.high)

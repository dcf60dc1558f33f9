"""What a run is made of: the static program, and the state that continues from one segment to the next."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import optax
from flax import struct

from purejaxppo import envs
from purejaxppo.config import TrainConfig
from purejaxppo.distributions import Categorical, Normal, PolicyDistribution, TanhNormal
from purejaxppo.envs.base import Discrete, Environment
from purejaxppo.envs.wrappers import EpisodeStatistics, ObservationStatistics
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import ActorCritic, NetworkOutput, Params, make_actor_critic
from purejaxppo.ppo.interventions import KLControl

Array = jax.Array

_LARGE = 2**21  # bytes of observations, as floats, that a processor's cache still holds

jax.tree_util.register_dataclass(
    HyperParams, data_fields=[field.name for field in dataclasses.fields(HyperParams)], meta_fields=[]
)


@dataclass(frozen=True)
class Learner:
    """The static parts of a run, built once per configuration: environment, networks, distribution."""

    config: TrainConfig
    env: Environment
    networks: ActorCritic
    distribution: PolicyDistribution

    def network_input(self, statistics: ObservationStatistics | None, obs: Array) -> Array:
        """Observations as the networks see them: float32, normalised where the configuration says so."""
        obs = obs.astype("float32")
        return obs if statistics is None else statistics.normalize(obs)

    def both_in_blocks(
        self, params: Params, statistics: ObservationStatistics | None, obs: Array
    ) -> tuple[NetworkOutput, NetworkOutput]:
        """Policy and critic on a rollout's observations [T * N, *obs]; many large ones are taken a minibatch at a time.

        What lies between observations and outputs, floats and patches, then takes no more memory than in an update.
        """

        def both(obs: Array) -> tuple[NetworkOutput, NetworkOutput]:
            return self.networks.both(params, self.network_input(statistics, obs))

        size = self.config.minibatch_size
        if 4 * obs.size <= _LARGE or obs.shape[0] % size:
            return both(obs)
        outputs = jax.lax.map(both, obs.reshape(-1, size, *obs.shape[1:]))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)


@struct.dataclass(kw_only=True)
class PlasticityTask:
    """Minibatches [M, B, ...] of observations, and what networks are to say to them; see diagnostics/plasticity.py."""

    obs: Array
    policy_outputs: Array
    value: Array


@struct.dataclass(kw_only=True)
class RunState:
    """Everything needed to continue a run: a checkpoint is this and nothing else."""

    params: Params
    optimizer: dict[str, optax.OptState]
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
    """0 while healthy; else the log point (counted from 1) at which the run diverged and was frozen."""
    kl_control: KLControl | None = None
    """Memory of kl_penalty and kl_stop; None without either."""
    plasticity_task: PlasticityTask | None = None
    """What networks are fitted to where the plasticity loss is measured; never changes. None where it never is."""
    power_vectors: dict[str, Array] | None = None
    """With weight_spectral: of every weight matrix W, the vector v [fan_out] whose |W v| is about its spectral norm."""


@struct.dataclass(kw_only=True)
class Batch:
    """One rollout as the update sees it, [T * N, ...]."""

    obs: Array
    action: Array
    log_prob: Array
    policy_outputs: Array
    policy_phi: Array
    """What PFO compares with, phi_old [..., D]: see `pfo_layers` and `pfo_features`."""
    critic_phi: Array
    advantage: Array
    value_target: Array


def make_learner(config: TrainConfig) -> Learner:
    """Environment, networks and action distribution of a configuration.

    Raises ConfigError for any setting that is impossible, before anything is compiled.
    """
    config.validate()
    env = envs.make(
        config.env,
        brax_backend=config.brax_backend,
        time_aware=config.time_aware,
        max_episode_steps=config.max_episode_steps,
    )
    distribution = make_distribution(config, env)
    networks = make_actor_critic(
        config,
        env.observation_shape,
        distribution.num_outputs,
        state_independent_scale=distribution.state_independent_scale,
    )
    return Learner(config, env, networks, distribution)


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

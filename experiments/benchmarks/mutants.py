"""Do the tests notice? The package is broken on purpose, in one place at a time, and the tests are to fail.

    python experiments/benchmarks/mutants.py --list
    python experiments/benchmarks/mutants.py --only kl_reversed time_limit_ignored
    python experiments/benchmarks/mutants.py --no-all-tests

A mutant is one replacement in one file, made in a copy of the working tree, which itself is never touched. First every
mutant is tried on tests that ought to notice; those that survive these are then tried on all tests but slow ones, which
`--no-all-tests` leaves out. Tests that fail without any mutant do not count: what is about to be run is run on the
unchanged copy before. Exit code 1 if a mutant survives. Results of mutants that are not tried are kept.

On two cores it takes 10 to 30 s for a mutant to be noticed and half an hour for all of them; where one survives its own
tests, twice the time of the whole suite on top.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OWN_TEST = "tests/test_benchmarks_mutants.py"  # fails for every mutant: it looks for the old texts
LIMIT = 600  # seconds for one test; a mutant may well loop for ever


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """In `file` of the package `new` in place of `old`, which is there exactly once; `tests` are tried first."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, text: str) -> str:
        """The file's text with the mistake in it; ValueError where there is not exactly one place for it."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {text.count(self.old)} places in {self.file}, not one: {self.old!r}")
        return text.replace(self.old, self.new)


# File -> name -> old text, new text, and tests by the file's name without test_ and .py: all of a file, one of them as
# file::name, likewise without test_, or one [case] of whole_update::iterations.
TABLE: dict[str, dict[str, tuple[str, str, str]]] = {
    "ppo/interventions/objectives.py": {
        "log_ratio_reversed": ("ratio(log_prob, batch.log_prob,", "ratio(batch.log_prob, log_prob,", "[cartpole]"),
        "pfo_clip_beyond_reversed": ("batch.policy_phi) <= ", "batch.policy_phi) >= ",
            "interventions::pfo_clip_takes_the_policy_gradient_from_samples_beyond_the_limit_and_nothing_else"),
    },
    "ppo/losses.py": {
        "advantage_by_unbiased_std": ("(advantage.std(),", "(advantage.std(ddof=1),", "[cartpole]"),
        "dpo_drift_of_the_other_sign": ("advantage >= 0, _beyond", "advantage < 0, _beyond",
            "after_step::dpo_value_and_gradient"),
        "smaller_value_loss": ("jnp.maximum(jnp.square(value - target)", "jnp.minimum(jnp.square(value - target)",
            "options::clipped_value_loss_and_its_gradient_by_hand"),
    },
    "ppo/rewards.py": {
        "returns_through_ends": ("jnp.where(done, 0.0, returns)", "returns",
            "options::normalized_rewards_equal_a_loop_over_rollouts_and_ends_of_episodes"),
        "scaled_by_the_step_before": ("before.merged(moments).var", "before.merged(own.moments).var",
            "options::without_ends_normalized_rewards_are_those_of_gymnasium"),
        "rewards_forget_earlier_rollouts": ("moments=before.merged(own.moments)", "moments=own.moments",
            "options::normalized_rewards_equal_a_loop_over_rollouts_and_ends_of_episodes"),
        "rewards_merged_step_by_step": ("before.merged(own.moments))", "jax.lax.scan(lambda m, r: (m.update(r), None), "
            "before, reward)[0])", "options::after_tens_of_millions_of_steps_the_variance_stays_where_it_is"),
    },
    "ppo/advantages.py": {
        "gae_through_terminations": ("1.0 - (terminated | truncated)", "1.0 - (truncated)", "advantages"),
        "gae_through_time_limits": ("1.0 - (terminated | truncated)", "1.0 - (terminated)", "advantages"),
        "terminations_worth_their_value": ("(1.0 - terminated.astype(value.dtype)) *", "1.0 *", "advantages"),
    },
    "ppo/rollout.py": {
        "value_target_is_advantage": ("value_target=(advantage + value)", "value_target=advantage", "[cartpole]"),
        "sign_reward_ignored": ("sign_reward(reward) if is_sign else reward", "reward", "[corridor]"),
        "time_limit_ignored": ('if rule == "terminate":', "if False:", "[stop]"),
        "time_limits_always_terminate": ('if rule == "terminate":', "if True:", "[cartpole]"),
        "raw_return_of_learning_reward": ("transition.reward, reward, done", "reward, reward, done", "[corridor]"),
        "bootstrap_from_the_next_episode": ("transition.final_obs[None]", "transition.obs[None]", "[corridor]"),
        "one_last_observation_for_all_cuts": ("(last[cut]", "(last[-1]", "[corridor]"),
        "targets_of_normalized_advantages": ("value_target=(advantage + value)",
            "value_target=((normalize_advantage(advantage) if is_normalized else advantage) + value)",
            "options::advantages_are_normalised_where_the_option_says_and_targets_never_move"),
        "first_cut_for_all_cuts": ("(last[cut]", "(last[0]", "[corridor]"),
        "critic_phi_of_policy": ("(learner, state, critic),", "(learner, state, policy),", "[cartpole]"),
    },
    "ppo/measures.py": {
        "weight_norm_before_step": ("params[name], after.params", "params[name], before.params", "[cartpole]"),
        "last_epoch_is_the_first": ("-1: last_epoch}", "-1: first_epoch}", "[cartpole]"),
    },
    "ppo/update.py": {
        "kl_stop_leaves_the_memory": ("optimizer, memory = jax.tree.map(", "optimizer, _ = jax.tree.map(",
            "proximity::a_stop_stops_the_memory_too"),
        "churn_on_its_own_minibatch": ("jnp.roll(order, -1, axis=0)", "order", "[cartpole]"),
        "kl_stop_takes_the_step_back": ("jnp.where(is_stopped,", "jnp.where(control.is_stopped,", "[stop]"),
        "kl_coef_by_the_first_epoch": ("last[0]), last[1], fresh", "last[0]), first[1], fresh", "[squashed]"),
        "same_order_every_epoch": ("fold_in(key, number)", "fold_in(key, 0)", "[cartpole]"),
        "first_samples_dropped": ("order[: config", "order[-config", "[normal]"),
        "one_masked_epoch_too_many": ("number < num_epochs", "number <= num_epochs", "selection"),
        "masked_epochs_forgotten": ("number < num_epochs", "number >= 0", "selection"),
    },
    "ppo/interventions/optimizers.py": {
        "rate_one_update_late": ("state.update / learner", "(state.update - 1) / learner", "[cartpole]"),
        "final_fraction_ignored": ("(1.0 - final) * done", "done",
            "update::learning_rates_at_the_start_in_the_middle_and_after_the_end"),
        "critic_at_the_policys_rate": ("return hparams.critic_learning_rate if", "return hparams.learning_rate if",
            "update::learning_rates_at_the_start_in_the_middle_and_after_the_end"),
        "adam_rel_forgets_the_moments": ("optax.tree_utils.tree_set(state.optimizer, count=jnp.zeros((), jnp.int32))",
            "jax.tree.map(jnp.zeros_like, state.optimizer)",
            "after_step::adam_rel_is_adam_whose_steps_are_counted_from_the_rollout"),
        "muon_reset_to_zeros": ('if is_reset and learner.config.optimizer == "muon":', "if False:",
            "after_step::a_reset_muon_is_a_fresh_one"),
        "reset_optimizer_ignored": ("if is_reset else state.optimizer", "if False else state.optimizer", "[normal]"),
        "trunk_clipped_once": ("mask, clipped, gradient)",
            'mask & ((name == "policy") | ~every["policy"][1]), clipped, gradient)', "[two_optimizers]"),
        "second_adam_undoes_the_first": ("weights[network] = weights[network] - rates[name] * direction",
            'weights[network] = jnp.where(True if mask is None else mask, gradients.setdefault(network + " before", '
            "weights[network]) - rates[name] * direction, weights[network])", "[two_optimizers]"),
    },
    "ppo/interventions/after_step.py": {
        "decayed_by_the_new_weights": ("optimizers.owned(before[network]", "optimizers.owned(weights[network]",
            "after_step::weight_decay_is_that_of_adamw"),
        "decayed_at_any_learning_rate": ("- rates[name] * decay_rate *", "- decay_rate *",
            "after_step::weight_decay_is_that_of_adamw"),
        "perturbed_by_the_initial_weights": ("jax.random.fold_in(key, _FRESH_KEY)", "jax.random.key(0)",
            "after_step::perturbed_weights_are_mixed_with_fresh_ones_of_the_start_at_every_step"),
        "clipped_by_fan_out": ("(kernel.size // kernel.shape[-1])", "(kernel.shape[-1])",
            "after_step::clipping_bounds_weights_and_biases_by_fan_in_and_nothing_else"),
        "projected_to_norm_1": ("norms[name] / jnp.where", "1.0 / jnp.where",
            "after_step::projection_gives_hidden_layers_the_norm_of_the_start_and_keeps_their_direction"),
        "projected_without_biases": ('re.sub("bias$", "kernel", name)', "name",
            "after_step::projection_changes_no_output"),
    },
    "ppo/interventions/penalties.py": {
        "parseval_of_inputs": ("kernel.T @ kernel - scale * jnp.eye(kernel.shape[1])",
            "kernel @ kernel.T - scale * jnp.eye(kernel.shape[0])",
            "after_step::parseval_is_that_of_hidden_layers_with_units_as_rows"),
        "l2_init_towards_zero": ("jnp.square(theta - start)", "jnp.square(theta)",
            "after_step::l2_init_is_the_sum_of_squares_and_its_gradient_is_twice_the_distance"),
    },
    "ppo/interventions/proximity.py": {
        "pfo_against_new_phi": ("(phis[0], held.policy_phi)", "(phis[0], phis[0])", "[cartpole]"),
        "held_to_the_rollout_on_other_states": ("held = batch if learner.", "held = batch if True or learner.",
            "proximity::each_corner_holds_what_it_says_where_it_says_to_what_it_says"),
        "sizes_of_all_steps": ("jnp.where(is_here, sizes[name], kept)", "jnp.where(is_here, sizes[name] + kept, kept)",
            "proximity::the_coefficient_makes_the_term_a_share_of_its_loss"),
        "adapted_from_the_start": ("state.update >= jnp.maximum(hparams.pfo_warmup, 1.0)", "state.update >= 0",
            "proximity::the_warm_up_has_the_fixed_coefficients_and_0_stays_0"),
        "held_to_what_a_reset_left": ("jnp.where(is_now, new, old), present", "jnp.where(False, new, old), present",
            "proximity::after_a_reset_the_next_step_is_held_to_the_new_weights"),
    },
    "ppo/interventions/kl_control.py": {
        "kl_stop_never_stops": ("kl > hparams.kl_stop_limit", "kl > jnp.inf", "[stop]"),
        "kl_coef_in_the_wrong_direction": ("= last_kl.mean()", "= hparams.kl_target**2 / last_kl.mean()", "[squashed]"),
    },
    "ppo/interventions/resets.py": {
        "moments_survive_resets": ("jnp.where(mask, 0.0, x) if", "x if",
            "resets::exactly_the_units_that_numpy_names_are_reset"),
        "fresh_weights_between_new_units": ("jnp.where(away, 0.0, jnp.where(to, new, old))",
            "jnp.where(to, new, jnp.where(away, 0.0, old))", "resets::exactly_the_units_that_numpy_names_are_reset"),
        "resets_one_update_late": ("((state.update + 1) % learner", "(state.update % learner",
            "resets::resets_come_after_the_last_update_of_an_interval_and_not_where_nothing_is_learned"),
        "utility_uncorrected_for_age": ("utility / (1 - decay**age)", "utility",
            "resets::continual_backprop_replaces_what_a_loop_replaces_in_every_one_of_400_steps"),
        "new_units_keep_their_age": ("age=jnp.where(chosen, 0.0, age)", "age=age",
            "resets::continual_backprop_replaces_what_a_loop_replaces_in_every_one_of_400_steps"),
    },
    "ppo/units.py": {
        "channels_outermost": ("jnp.tile(mask, kernel", "jnp.repeat(mask, kernel",
            "resets::exactly_the_units_that_numpy_names_are_reset"),
        "gradient_of_preactivations": ("activation(z) + next(left).reshape(z.shape)",
            "activation(z + next(left).reshape(z.shape))", "resets::exactly_the_units_that_numpy_names_are_reset"),
    },
    "ppo/state.py": {"time_is_normalised": ("if self.config.time_aware", "if False", "[running_and_time]")},
    "distributions.py": {
        "change_of_outputs_reversed": ("return self.kl(old, new)", "return self.kl(new, old)",
            "proximity::the_change_of_outputs_and_its_gradient"),
        "unclamped_densities": ("(math.log(1e-7), math.log(1e9))", "(-math.inf, 60)", "update_rules")},
    "envs/wrappers.py": {
        "never_sticky": ("is_repeated, state.action", "is_repeated, action", "sticky_actions"),
        "sticky_across_episodes": ("where(is_over, 0, action)", "where(is_over, action, action)", "sticky_actions"),
        "time_from_0": ("2 * elapsed", "1 + elapsed", "wrappers"),
        "fixed_statistics_clip": ("return (obs - mean) /", "return jnp.clip(obs - mean, -10.0, 10.0) /", "wrappers"),
        "running_statistics_do_not_clip": ("* scale, -10.0, 10.0)", "* scale, -jnp.inf, jnp.inf)", "wrappers"),
    },
    "training/train.py": {
        "statistics_before_the_epochs": (
            "after, minibatches = update_networks(learner, hparams, after, batch, key_update, num_epochs, is_measured)",
            "old = after.observation_statistics\n"
            '    is_running = learner.config.normalize_observations == "running"\n'
            "    new = learner.updated_statistics(old, batch.obs) if is_running else old\n"
            "    after, minibatches = update_networks(learner, hparams, replace(after, observation_statistics=new), "
            "batch, key_update, num_epochs, is_measured)\n"
            "    after = replace(after, observation_statistics=old)", "[squashed]"),
        "statistics_never_updated": ("replace(after, observation_statistics=seen)", "replace(after)", "[squashed]"),
        "fixed_statistics_updated": ('observations == "running"', 'observations != "off"', "[fixed]"),
        "one_key_for_rollout_and_epochs": ("batch, key_update,", "batch, key_collect,", "[squashed]"),
        "episodes_of_all_time": (".reset_interval()", "", "[cartpole]"),
        "first_update_of_an_interval_measured": ("== learner.config.updates_per_log - 1", "== 0", "[corridor]"),
        "origin_after_the_update": ("1, origin=origin)", "1, origin=origin_of(learner, after))",
            "snapshots::diagnostics_of_snapshots_are_those_that_were_logged"),
    },
    "training/whole.py": {
        "log_point_0_learns": ("state, num_epochs=0)", "state)", "normalization"),
    },
    "training/evaluation.py": {
        "evaluated_beyond_the_first_episode": ("jnp.where(episodes.is_over, 0.0, transition.reward)",
            "transition.reward", "snapshots::evaluations_are_those_of_environments_played_one_by_one"),
        "evaluated_with_the_same_keys": ("EVALUATION), state.update)", "EVALUATION), 0)",
            "snapshots::evaluations_are_those_of_environments_played_one_by_one"),
        "always_sampled": ("key if is_sampled else None", "key",
            "evaluate::the_mode_is_played_in_training_where_it_is_asked_for"),
    },
    "training/diagnosis.py": {
        "kl_reversed": ("policy_before.outputs, policy_after.", "policy_after.outputs, policy_before.", "[cartpole]"),
        "diagnosed_by_later_statistics": ("statistics=before.observation_statistics", "statistics=moved", "[squashed]"),
        "one_key_for_both_entropies": ("outputs_after, keys[1])", "outputs_after, keys[0])", "[squashed]"),
        "dead_by_the_rule_of_relu": ("dead_neurons(features, name)", 'dead_neurons(features, "relu")', "glue"),
        "statistics_kl_of_the_update": ("kl(policy_after.outputs", "kl(policy_before.outputs", "[squashed]"),
    },
    "training/freeze.py": {
        "status_one_log_point_late": ("config.updates_per_log", "config.updates_per_log + 1",
            "train::a_diverging_run_is_frozen_and_marked_and_the_others_do_not_notice"),
        "what_diverged_is_kept": ("jnp.where(is_healthy, new, old)", "new",
            "train::a_diverging_run_is_frozen_and_marked_and_the_others_do_not_notice"),
    },
    "training/plasticity.py": {
        "task_of_another_seed": ("run(learner, key,", "run(learner, jax.random.key(7),", "diagnostics_plasticity"),
        "same_order_every_pass": ("[shuffled_indices(key, size)", "[jnp.arange(size)", "diagnostics_plasticity"),
        "fitted_without_clipping": (" * clip_scale(hparams, jnp.linalg.norm(gradient))", "", "diagnostics_plasticity"),
        "loss_of_the_first_minibatch": ("losses[-1],", "losses[0],", "diagnostics_plasticity"),
        "fresh_networks_not_fitted": ("state, task)))[-1]", "state, task)))[0]", "diagnostics_plasticity"),
        "constant_over_all_minibatches": ("task.rows(_minibatches(learner)[-1])", "task", "diagnostics_plasticity"),
    },
    "diagnostics/diagnose.py": {
        "entropy_before_from_after": ("(entropy, moments,", "(entropy.at[0].set(entropy[1]), moments,", "[cartpole]"),
        "moments_before_from_after": ("(entropy, moments,", "(entropy, moments.at[0].set(moments[1]),", "[cartpole]"),
        "probe_of_features_before": ("del metrics[f\"{name}_probe_r2_before\"]",
            "metrics[f\"{name}_probe_r2\"] = metrics.pop(f\"{name}_probe_r2_before\")", "[cartpole]"),
        "drift_against_itself": ("drift(before.features,", "drift(after.features,", "[cartpole]"),
    },
    "diagnostics/neurons.py": {"active_at_0": ("preactivations.min(axis=-2) > 0", "preactivations.min(axis=-2) >= 0",
        "diagnostics_gradients::always_active_units_are_positive_on_every_sample")},
    "diagnostics/spectral.py": {"ranks_at_0_9": ("_TAIL = 0.01 ", "_TAIL = 0.1 ", "diagnostics_spectral")},
    "products.py": {
        "third_piece_lost": ("[first, second, x - first - second]", "[first, second, 0 * x]", "products"),
        "gradient_not_transposed": ("gradient, not is_transposed)", "gradient, is_transposed)", "products"),
        "pieces_not_rounded": ("jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)",
            "x", "products"),
        "coarse_products_in_pieces": (' and precision == "highest" and is_large', " and is_large", "products"),
    },
    "diagnostics/routes.py": {
        "remaining_rows_dropped": ("return add(gram, matrix[whole:])[0] if",
            "return gram if 0 < whole < len(matrix) or",
            "diagnostics_spectral::both_in_one_are_the_two_apart"),
        "singular_values_ascending": ("eigenvalues[::-1]", "eigenvalues", "diagnostics_spectral::zero_matrix "
            "diagnostics_spectral::both_in_one_are_the_two_apart"),
        "spectrum_about_the_mean": ("_roots(moments + cross + cross.T)", "_roots(moments)",
            "diagnostics_spectral::both_in_one_are_the_two_apart"),
        "unscaled_units": ("jnp.where(is_unit, jax.lax.rsqrt(jnp.where(is_unit, squares, 1)), 0)",
            "is_unit.astype(gram.dtype)", "diagnostics_probe::collapsed_features_and_a_floor"),
        "no_floor": ('"float64": 1e-12', '"float64": 0.0', "diagnostics_probe::collapsed_features_and_a_floor"),
        "no_floor_on_a_tpu": ('"float32": 1e-6', '"float32": 0.0', "diagnostics_probe::collapsed_features_and_a_floor"),
    },
    "statistics/factorial.py": {
        "diverged_is_the_least_of_what_is_to_be_low": ("(dataset, metric, is_lowest)", "(dataset, metric)",
            "statistics_factorial::a_run_that_diverged_counts_as_the_worst"),
    },
    "blas.py": {
        "other_platforms_times_3": ('"default": cpu}', '"default": lambda *a: jax.tree.map(lambda x: 3 * x, cpu(*a))}',
            "program::all_branches_of_what_depends_on_the_platform"),
        "a_trace_of_another_machine": ("_traced_once(route, is_cpu())", "_traced_once(route, True)", "precision"),
        "routes_traced_for_every_use": ("    return jax.jit(lambda *arguments: route(*arguments))",
            "    return lambda *arguments: route(*arguments)", "precision"),
        "diagnoses_for_every_platform": ("        return jax.custom_batching.sequential_vmap(jax.jit(function))",
            "        return one_at_a_time(function)", "precision"),
    },
    "sweep/program.py": {
        "absent_where_any_run_lacks_it": ("if all(getattr", "if any(getattr", "glue"),
        "choices_in_sorted_order": ("values.index(getattr", "sorted(values).index(getattr", "program"),
        "log_point_0_learns_in_sweeps": ("epochs if is_learning else np.zeros_like(epochs)", "epochs", "program"),
        "padding_is_kept": ("np.asarray(x)[:num_runs]", "np.asarray(x)", "glue"),
        "masked_epochs_of_the_first_run": ("else runs.num_epochs",
            "else np.full_like(runs.num_epochs, runs.num_epochs[0])", "program"),
    },
    "sweep/snapshots.py": {"kept_where_it_diverged": ('metrics["status"] == 0', 'metrics["status"] >= 0',
        "snapshots::networks_are_kept_at_evenly_spaced_log_points_of_runs_that_are_sound")},
    "sweep/engine.py": {"restored_one_log_point_late": ("log_point + 1, item", "log_point + 2, item",
        "sweep::a_crash_between_checkpoints_loses_no_bit")},
}  # fmt: skip

# Likewise, in glue: options, units, what is drawn beside the first panel. A reader of the tests found these unseen.
GLUE: dict[str, dict[str, tuple[str, str, str]]] = {
    "commands/playing.py": {
        "deterministic_ignored": ("is_deterministic=deterministic", "is_deterministic=False",
            "commands::options_arrive"),
        "evaluate_seed_ignored": ("episodes=episodes, seed=seed, is_det", "episodes=episodes, seed=0, is_det",
            "commands::options_arrive"),
        "rediagnosed_snapshots_ignored": ("snapshots=snapshots or None", "snapshots=None",
            "commands::options_arrive"),
        "rediagnosed_own_ignored": ("diagnostics=diagnostics)", "diagnostics=())",
            "commands::options_arrive"),
    },
    "commands/reading.py": {
        "where_ignored": ("select(load_several(directory), conditions)", "select(load_several(directory), {})",
            "commands::a_figure_is_of_the_runs_lines_and_panels_asked_for"),
        "by_ignored": ("curves(part, metric, by or None, facet,", "curves(part, metric, None, facet,",
            "commands::a_figure_is_of_the_runs_lines_and_panels_asked_for"),
        "facet_ignored": ("curves(part, metric, by or None, facet,", "curves(part, metric, by or None, None,",
            "commands::a_figure_is_of_the_runs_lines_and_panels_asked_for"),
        "lowest_ignored": ("metric, lowest, against, within)", "metric, False, against, within)",
            "commands::a_comparison_is_of_what_is_asked_for"),
        "toy_drawn_by_defaults": ("toy_figure(learning_rate, steps)", "toy_figure()",
            "commands::options_arrive"),
    },
    "commands/computing.py": {
        "memory_ignored": ("        memory=memory,", "        memory=None,",
            "commands::options_of_a_sweep_arrive"),
        "force_ignored": ("is_forced=options.force", "is_forced=False",
            "commands::options_of_a_sweep_arrive"),
        "keep_always": ("is_kept=options.keep", "is_kept=True",
            "commands::options_of_a_sweep_arrive"),
        "one_core": ("    use_cpu_cores()", "    use_cpu_cores(1)",
            "commands::sweeps_use_all_cores_and_join_their_processes"),
    },
    "ppo/state.py": {
        "spring_for_all": ("brax_backend=config.brax_backend", 'brax_backend="spring"',
            "env_options::options_of_the_environment_are_those_of_the_configuration"),
    },
    "sweep/memory.py": {
        "limit_of_the_job_ignored": ("_SHARE * min(known)", "_SHARE * max(known)",
            "resources::of_a_machines_and_a_jobs_memory_the_lesser_is_free"),
        "all_memory_is_free": ('startswith("MemAvailable")', 'startswith("MemTotal")',
            "resources::free_is_what_the_machine_could_give"),
        "used_gpu_memory_is_free": (
            '(statistics["bytes_limit"] - statistics',
            '(statistics["bytes_limit"] + statistics',
            "resources::of_a_machines_and_a_jobs_memory_the_lesser_is_free"),
        "unequal_chunks": ("each = -(-a_process // num_chunks)", "each = min(fit, a_process)",
            "resources::chunks_are_equal"),
    },
    "sweep/engine.py": {
        "never_a_checkpoint": (
            "return time.perf_counter() - self._last >= self._cost / _CHECKPOINT_SHARE",
            "return False",
            "resources::checkpoints_take_a_share_of_the_time"),
    },
    "sweep/progress.py": {
        "healthy_is_diverged": ('(metrics["status"] != 0)', '(metrics["status"] == 0)',
            "resources::diverged_runs_are_counted_and_the_time_left_is_told"),
        "no_time_left": (
            "self._last, self._bar.left = now, self._time_left.seconds()",
            "self._last, self._bar.left = now, None",
            "resources::diverged_runs_are_counted_and_the_time_left_is_told"),
    },
    "sweep/costs.py": {
        "cost_of_a_block": ("scale = program.width / width", "scale = 1.0",
            "resources::costs_are_those_of_a_block_times_the_number_of_blocks"),
        "cost_of_all_epochs": ("max(whole - rollout, 0.0) / epochs", "max(whole - rollout, 0.0)",
            "resources::costs_are_those_of_a_block_times_the_number_of_blocks"),
        "evaluations_as_often_as_plasticity": (
            "sum(map(config.is_evaluation_point, logs))",
            "sum(map(config.is_plasticity_point, logs))",
            "resources::a_chunk_that_is_padded_costs_as_much_as_a_full_one"),
        "evaluation_of_untrained": ("compiled(state)) * limit / longest", "compiled(state))",
            "resources::an_evaluation_is_timed_to_the_limit_of_its_episodes"),
    },
    "sweep/estimate.py": {
        "padded_chunk_is_free": (
            "-(-sum(chunk.num_runs for chunk in spans) // width)",
            "sum(chunk.num_runs for chunk in spans) // width",
            "resources::a_chunk_that_is_padded_costs_as_much_as_a_full_one"),
        "processes_multiply": ("whole / jax.process_count()", "whole * jax.process_count()",
            "sweep::the_estimate_is_what_single_updates_cost_times_how_many_there_are"),
    },
    "evaluate.py": {
        "status_of_the_first_128": ("policies.status[some] != 0", "policies.status != 0",
            "evaluate::runs_that_diverged_are_marked_and_count_as_the_worst"),
        "worst_of_all_environments": ('groupby(["env"] * ("env" in table) + ["snapshot"]', 'groupby(["snapshot"]',
            "evaluate::a_run_that_diverged_counts_as_the_worst_of_its_environment_and_snapshot"),
        "lower_ends_drawn": ('columns["return_mean"]', 'columns["return_low"]',
            "snapshots::snapshots_are_evaluated_and_the_last_one_is_the_final_policy"),
    },
    "training/evaluation.py": {
        "shortest_for_mean_length": (
            "episodes.lengths.mean(dtype=jnp.float32)",
            "episodes.lengths.min().astype(jnp.float32)",
            "snapshots::evaluations_are_those_of_environments_played_one_by_one"),
    },
    "results/foreign.py": {
        "imported_runs_never_diverge": ("status=own_status[rows]", "status=np.zeros(len(rows))",
            "foreign::runs_that_diverged_stay_so_on_grids_of_their_own"),
    },
    "results/runs.py": {
        "evaluations_are_dots": ('("plasticity", "evaluation")', '("plasticity",)',
            "plots_figures::plasticity_and_evaluations_join_their_measurements_and_other_metrics_keep_their_gaps"),
    },
    "plots/spectrum.py": {
        "critic_spectrum_is_the_policys": (
            "median_spectrum(dataset, network, runs)",
            'median_spectrum(dataset, "policy", runs)',
            "plots_figures::the_spectrum_is_the_median_share_of_the_largest"),
    },
    "plots/scatter.py": {
        "critic_matrix_is_the_policys": ("rank_correlations(dataset, network)", 'rank_correlations(dataset, "policy")',
            "plots_figures::rank_matrices_are_scipys_averaged_and_worst"),
        "limit_on_the_wrong_side": ("[1 - float(value)", "[1 + float(value)",
            "plots_figures::the_scatter_has_its_points_and_scipys_correlations"),
    },
    "plots/survival.py": {
        "all_survival_is_the_returns": (
            "_curves_of(dataset, event) for event",
            '_curves_of(dataset, "return") for event',
            "plots_figures::survival_lines_are_the_curves_and_go_on_to_the_end"),
    },
    "plots/boxes.py": {
        "outliers_hidden": ('"fliers": box.outliers', '"fliers": []',
            "plots_figures::outliers_are_dots"),
    },
    "plots/factorial.py": {
        "effects_not_in_doublings": ("in_doublings=is_log", "in_doublings=False",
            "statistics_factorial::the_figure_colours_what_is_told_from_zero"),
    },
    "plots/figures.py": {
        "limit_on_the_wrong_side_in_figure_3": ("1 - limits[0]", "1 + limits[0]",
            "plots_figures::individual_runs_are_of_the_plain_point_with_most_epochs"),
    },
    "plots/sensitivity.py": {
        "band_of_logarithms": ("low=float(ends[1])", "low=found.low",
            "plots_any_metric::sensitivity_of_what_is_drawn_on_a_log_axis_is_a_ratio"),
    },
    "claims/effects.py": {
        "diverged_has_the_smallest_norm": ("_end(NORM, 1, True)", "_end(NORM, 1)",
            "claims::runs_that_diverge_collapse_no_later_for_it"),
    },
    "sweep/policies.py": {
        "diverged_policy_one_point_late": ("config.num_logs, status - 1)", "config.num_logs, status)",
            "evaluate::the_policy_of_a_run_that_diverged_says_so"),
    },
    "results/export.py": {
        "wandb_by_its_own_step": ('step_metric="env_steps"', 'step_metric="_step"',
            "export::wandb_keeps_history_and_configuration_offline"),
    },
}  # fmt: skip


def paths(tests: str) -> tuple[str, ...]:
    """What pytest calls the tests of a row of the table."""
    words = [f"whole_update::iterations{word}" if word[0] == "[" else word for word in tests.split()]
    parts = [word.partition("::") for word in words]
    return tuple(f"tests/test_{file}.py::test_{name}" if name else f"tests/test_{file}.py" for file, _, name in parts)


MUTANTS = {
    name: Mutant(name=name, file=f"purejaxppo/{file}", old=old, new=new, tests=paths(tests))
    for file, rows in (*TABLE.items(), *GLUE.items())
    for name, (old, new, tests) in rows.items()
}


@dataclass(kw_only=True)
class Session:
    """A temporary folder for copies of the working tree, the processes at work there, and what fails by itself."""

    folder: Path
    processes: set[subprocess.Popen[str]] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    is_over: bool = False

    def take(self) -> Path:
        """The copy that mutants are made from: all files that git knows or would know, and the oracles beside them."""
        target = self.folder / "unchanged" / "tree"
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for file in filter(None, subprocess.check_output(command, text=True).split("\0")):
            if (ROOT / file).is_file():
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, target / file)
        if (ROOT.parent / "shared").is_dir():
            (target.parent / "shared").symlink_to(ROOT.parent / "shared")
        return target

    def failures(self, tree: Path, *arguments: str) -> list[str]:
        """Tests that fail in a copy of the tree, each with " - " and why. RuntimeError where pytest itself fails."""
        usable = [argument for argument in arguments if argument.split("::")[0] not in self.broken]
        if not any(argument.startswith("tests") for argument in usable):
            return []
        out = [f"--{'deselect' if '::' in x else 'ignore'}={x}" for x in sorted(self.broken | {OWN_TEST})]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow and not notebook"]
        command += [f"--timeout={LIMIT}", "--timeout-method=thread", "--continue-on-collection-errors", *out, *usable]
        environment = os.environ | {"PYTHONPATH": str(tree), "TMPDIR": str(tree.parent), "COLUMNS": "180"}
        if self.is_over:
            raise RuntimeError("stopped")
        process = subprocess.Popen(
            command, cwd=tree, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.processes.add(process)
        output = process.communicate()[0]
        self.processes.discard(process)
        failed = re.findall(r"^(?:FAILED|ERROR) (tests/.*)", output, re.MULTILINE)
        if "+ Timeout +" in output:
            failed.append(f"a test that takes longer than {LIMIT} s")
        if process.returncode not in (0, 5) and not failed:  # 5: no tests
            raise RuntimeError(f"pytest ended with {process.returncode}:\n{output[-3000:]}")
        return failed

    def result(self, mutant: Mutant, unchanged: Path, tests: tuple[str, ...]) -> dict[str, Any]:
        """The first of these tests to notice a mutant, None where none does, and the seconds that it took."""
        start, tree = time.perf_counter(), self.folder / mutant.name / "tree"
        shutil.copytree(unchanged.parent, tree.parent, symlinks=True)
        file = tree / mutant.file
        file.write_text(mutant.applied(file.read_text(encoding="utf-8")), encoding="utf-8")
        killed_by = [*self.failures(tree, "-x", *tests), None][0]
        shutil.rmtree(tree.parent)
        return {"tests": tests, "killed_by": killed_by, "seconds": round(time.perf_counter() - start)}

    def stop(self) -> None:
        """End the tests that are under way, with everything that they started."""
        self.is_over = True
        for process in list(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def run(mutants: list[Mutant], num_processes: int, is_everything_run: bool, out: Path) -> int:
    """Try the mutants, write down what becomes of each, and give the number of survivors."""
    known = json.loads(out.read_text()) if out.is_file() else {}
    results, left = {name: found for name, found in known.items() if name in MUTANTS}, mutants
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        session = Session(folder=Path(folder))
        with ThreadPoolExecutor(num_processes) as pool:
            try:
                tree = session.take()
                for is_everything in (False, True)[: 1 + is_everything_run]:
                    tests = {mutant.name: ("tests",) if is_everything else mutant.tests for mutant in left}
                    for test in session.failures(tree, *dict.fromkeys(sum(tests.values(), ()))):
                        print(f"fails without any mutant, so it does not count: {test}", flush=True)
                        session.broken.add(test.split(" - ")[0])
                    futures = {pool.submit(session.result, m, tree, tests[m.name]): m.name for m in left}
                    for future in as_completed(futures):
                        name, found = futures[future], future.result()
                        end = f"killed by {found['killed_by']}" if found["killed_by"] else "SURVIVED"
                        print(f"{name}: {end} in {found['seconds']} s", flush=True)
                        results[name] = found
                        out.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n")
                    left = [mutant for mutant in left if not results[mutant.name]["killed_by"]]
            except BaseException:
                session.stop()
                pool.shutdown(cancel_futures=True)
                raise
    print(f"{len(mutants)} mutants, {len(mutants) - len(left)} killed, {len(left)} survived; written: {out}")
    return len(left)


def main() -> int:
    """List the mutants, or try them; exit code 1 if one survives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=MUTANTS, metavar="NAME", default=list(MUTANTS))
    parser.add_argument("--list", action="store_true", help="names, places and first tests; nothing is run")
    parser.add_argument("--processes", type=int, default=1, help="mutants that are tried at the same time")
    parser.add_argument("--all-tests", action=argparse.BooleanOptionalAction, default=True, help="also those not named")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "benchmarks" / "results" / "mutants.json")
    args = parser.parse_args()
    mutants = [MUTANTS[name] for name in args.only]
    if args.list:
        print(*(f"{m.name}: {m.file} ({', '.join(m.tests)})" for m in mutants), sep="\n")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the copies, as Ctrl-C does
    return int(run(mutants, args.processes, args.all_tests, args.out) > 0)


if __name__ == "__main__":
    sys.exit(main())

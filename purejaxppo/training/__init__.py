"""A run as the paper has it: the algorithm of `ppo/` repeated, and diagnosed by `diagnostics/`."""

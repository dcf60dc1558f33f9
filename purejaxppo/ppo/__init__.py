"""The steps of the algorithm, pure; `purejaxppo/training/train.py`, which puts them together, is the place to start."""

from purejaxppo.ppo import advantages, losses

__all__ = ["advantages", "losses"]

"""The algorithm: `train.py` is the place to start reading."""

from purejaxppo.ppo import advantages, losses

__all__ = ["advantages", "losses"]

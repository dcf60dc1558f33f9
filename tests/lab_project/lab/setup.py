"""Registers an environment under a name."""

import purejaxppo as pjp
from lab.envs import Corridor

pjp.envs.register("lab/Corridor", Corridor)

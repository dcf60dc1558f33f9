"""Do the package's intervals, shares and verdicts hold what they say? Simulations of which the truth is known.

    python experiments/benchmarks/statistics.py [--parts intervals survival ...] [--scale 1.0]

The simulations are in `statistics_simulation.py` and, of the claims' verdicts, in `verdicts_simulation.py`.

Python looks for modules beside a script first: where a neighbour, or a library that it uses, imports the standard
library's `statistics`, it finds this file, which then hands over that module.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path

if __name__ == "__main__":
    from statistics_simulation import main

    sys.exit(main())

_spec = importlib.util.spec_from_file_location(__name__, Path(sysconfig.get_path("stdlib"), "statistics.py"))
assert _spec is not None
assert _spec.loader is not None
sys.modules[__name__] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules[__name__])

"""Rules for every test: silent broadcasting is an error, warnings are errors, and two CPU devices are there."""

import gc
import os
import warnings
from importlib.metadata import version
from pathlib import Path

# Tests compile a lot and compute little: leave most of LLVM's optimisation out. Set before JAX is imported. jaxlib 0.10
# still has its older kernels for loops, which compile in half of the time; later ones end at a flag they don't know.
os.environ["XLA_FLAGS"] = " ".join(
    [
        *(
            os.environ.get("XLA_FLAGS", ""),
            "--xla_backend_optimization_level=0",
            "--xla_llvm_disable_expensive_passes=true",
        ),
        "--xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
    ]
)

# A CPU's rounding, widths and devices are what tests count on, also where there is a GPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

gc.set_threshold(200_000, 20, 100)  # traces are many objects: looking through them all takes a tenth of the time
jax.config.update("jax_numpy_rank_promotion", "raise")  # catches the (N, 1) - (N,) value-loss bug
jax.config.update("jax_num_cpu_devices", 2)

# The same examples in every run, however slow the machine.
hypothesis.settings.register_profile("purejaxppo", deadline=None, derandomize=True)
hypothesis.settings.load_profile("purejaxppo")

ORACLES = Path(__file__).parents[2] / "shared" / "oracles"

# Third parties that warn on import; each is imported in one file of the package. Everything else is an error.
NAMED_EXCEPTIONS = (
    ("ignore", r"jax\.core\.pytype_aval_mappings", DeprecationWarning),  # tfp-nightly, through distrax
    ("ignore", r".*jaxopt.*", DeprecationWarning),  # jaxopt, through brax
    ("ignore", r".*[Bb]rax.*", Warning),  # brax, not actively maintained
    ("ignore", r".*(ncon|contact).*", DeprecationWarning),  # brax's mjx
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error")
    for action, message, category in NAMED_EXCEPTIONS:
        config.addinivalue_line("filterwarnings", f"{action}:{message}:{category.__name__}")
    warnings.simplefilter("default")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Folder of the reference implementation's inputs and outputs; skips where a clone has not got it."""
    if not ORACLES.is_dir():
        pytest.skip("the reference implementation's oracles are not in this clone")
    return ORACLES

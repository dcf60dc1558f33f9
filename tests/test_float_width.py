"""Runs compute in float32: where a process has asked JAX for 64 bits they are refused, in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import purejaxppo

SENTENCE = "jax_enable_x64 is True, but must be False: runs compute in float32 (unset JAX_ENABLE_X64)."


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = str(Path(purejaxppo.__file__).parents[1])
    environment = os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": path, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_make_train_refuses_64_bits(tmp_path: Path) -> None:
    code = (
        "import purejaxppo as pjp\n"
        "try:\n"
        "    pjp.make_train(pjp.TrainConfig(env='probe/Action'))\n"
        "except pjp.ConfigError as error:\n"
        "    print(error)"
    )
    result = run("-c", code, folder=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"{SENTENCE}\n"), result.stderr


def test_the_command_line_says_so_and_ends_with_code_2(tmp_path: Path) -> None:
    options = ["--env", "probe/ValueOnly", "--total-steps", "64", "--num-steps", "8", "--minibatch-size", "8"]
    result = run("-m", "purejaxppo", "train", *options, "--out", str(tmp_path / "out"), folder=tmp_path)
    assert result.returncode == 2, result.stderr
    assert SENTENCE in result.stderr
    assert "Traceback" not in result.stderr + result.stdout

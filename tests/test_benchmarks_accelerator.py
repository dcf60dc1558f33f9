"""What is read from a compiled program's text, on small texts whose numbers can be counted; committed results."""

# pyright: reportMissingImports=false

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

BENCHMARKS = Path(__file__).parents[1] / "experiments" / "benchmarks"
TEXTS = Path(__file__).parent / "hlo"
RESULTS = BENCHMARKS / "results" / "accelerator.json"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def module_of(name: str) -> Any:
    from hlo import parse

    return parse((TEXTS / f"{name}.txt").read_text())


def instructions(module: Any, computation: str = "main") -> dict[str, Any]:
    return module.computations[computation]


def test_launches_of_nested_loops_count_as_often_as_they_run() -> None:
    from hlo import launches

    # A step launches 3, one of GAE 1, a minibatch 4 with the smaller branch of its condition, an epoch a sort and 5
    # minibatches: an update 7 (3 + 1) + 2 (1 + 5 x 4) = 70, of which there are 4. Then comes a loop of unknown length
    # that launches 1, and a copy (its -done launches nothing).
    module = module_of("gpu_training")
    assert launches(module.steps()) == 4 * 70 + 1 + 1
    assert launches(module.steps(unknown_trips=10)) == 4 * 70 + 10 + 1
    assert sum(step.times for step in module.steps() if step.instruction.opcode == "conditional") == 4 * 2 * 5


def test_loops_are_known_by_their_python_functions() -> None:
    module = module_of("gpu_training")
    loops = {loop.name: loop for step in module.steps() for loop in step.loops}
    assert {name: loop.trips for name, loop in loops.items()} == {
        "trained": 4,
        "collected": 7,
        "advised": 7,
        "learnt": 5,
        "learnt.1": 2,
        "powers": None,
    }
    assert loops["learnt"].functions == ("epoch", "_repeat_epochs", "segment")
    assert loops["collected"].functions == ("collect", "segment")


def test_launches_per_pass() -> None:
    from passes import per_pass

    found = per_pass(module_of("gpu_training"), num_steps=7, num_minibatches=10)
    assert found == {"environment_step": 3, "gae_step": 1, "minibatch": 4, "update": 70}
    with pytest.raises(ValueError, match="no loop of 12 minibatches"):
        per_pass(module_of("gpu_training"), num_steps=7, num_minibatches=12)
    with pytest.raises(ValueError, match="no loop of collect"):
        per_pass(module_of("gpu_calls"), num_steps=7, num_minibatches=10)


def test_a_single_update_is_the_whole_program() -> None:
    from hlo import parse
    from passes import per_pass

    text = (TEXTS / "gpu_training.txt").read_text().replace('"n":"4"', '"n":"1"')
    inlined = text.replace("body=%update_body", "to_apply=%update_body").replace(
        "%trained = (s32[], f32[3,8]{1,0}) while(%start)", "%trained = (s32[], f32[3,8]{1,0}) call(%start)"
    )
    found = per_pass(parse(inlined), num_steps=7, num_minibatches=10)
    assert found == {"environment_step": 3, "gae_step": 1, "minibatch": 4, "update": 70 + 1 + 1}


def test_trips_on_a_tpu_are_the_bound_of_the_condition() -> None:
    from hlo import launches, multiplied, parse

    module = module_of("tpu")
    assert launches(module.steps()) == 128  # a product each; the call that stands for memory is none
    product = instructions(module, "body")["convolution-base-dilated.225"]
    assert list(multiplied(module, product)) == [("f32", 2 * 64 * 4 * 64 * 64)]
    unknown = (TEXTS / "tpu.txt").read_text().replace("direction=LT", "direction=NE")
    assert module.trips(instructions(module, "main.1")["while.2"]) == 128
    assert parse(unknown).trips(instructions(parse(unknown), "main.1")["while.2"]) is None


def test_products_of_booleans_with_exact_floats_are_exact() -> None:
    from hlo import multiplied, parse

    text = (TEXTS / "tpu.txt").read_text().replace("%units = f32", "%units = pred")
    exact = text.replace("dim_labels=0bf", "operand_precision={highest,highest}, dim_labels=0bf")
    for asked, dtype in ((text, "f32"), (exact, "f32_exact")):
        module = parse(asked)
        product = instructions(module, "body")["convolution-base-dilated.225"]
        assert list(multiplied(module, product)) == [(dtype, 2 * 64 * 4 * 64 * 64)]


def test_products_and_convolutions_are_counted() -> None:
    from hlo import multiplied

    module = module_of("gpu_sizes")
    found = {name: list(multiplied(module, instruction)) for name, instruction in instructions(module).items()}
    assert {name: counts for name, counts in found.items() if counts} == {
        "product": [("f32", 2 * 16 * 128 * 32 * 64)],
        "exact": [("f32_exact", 2 * 16 * 64 * 64 * 128)],
        "maps": [("f32", 2 * 256 * 8 * 8 * 16 * 9 * 4)],
        "gemm": [("f32", 2 * 16 * 128 * 32 * 64)],
    }


def test_bytes_of_slices_and_updates_are_those_of_the_part() -> None:
    from hlo import moved_bytes

    module = module_of("gpu_sizes")
    found = {name: moved_bytes(module, x) for name, x in instructions(module).items() if x.is_launch}
    assert found["product"] == 4 * (16 * 128 * 64 + 16 * 64 * 32 + 16 * 128 * 32)
    assert found["gathered"] == 10 * 100 + 10 * 4 + 10 * 100 * 4  # one byte a pred, of the rows that are taken
    assert found["updated"] == 2 * 16 * 4 + 4  # a row in, a row out, its number
    assert found["result"] == 2 * 4 * 16 * 128 * 32
    training = module_of("gpu_training")
    assert moved_bytes(training, instructions(training)["sent"]) == 2 * 4 * 3 * 8  # though its result lists both ends


def test_library_calls_are_judged_by_what_jaxlib_does() -> None:
    from accelerator import library_calls
    from libraries import BATCHED, BLOCKS, FEWER, LOOPED, UNKNOWN
    from targets import TARGETS

    module = module_of("gpu_calls")

    def verdicts(num_runs: int) -> list[tuple[str, int, int, str]]:
        calls = library_calls(module, module.steps(), num_runs, TARGETS["h100"])
        return [(call["target"][9:-4], call["times"], call["matrices"], call["verdict"]) for call in calls]

    assert verdicts(num_runs=16) == [
        ("geqrf", 1, 128, BATCHED),
        ("geqrf", 1, 2, LOOPED),  # 65536 rows for 2 matrices
        ("gesvdj", 1, 128, LOOPED),  # 64 columns
        ("gesvdj", 1, 128, BATCHED),  # 32, and full matrices
        ("gesvdj", 1, 128, LOOPED),  # 32, economical
        ("newest", 1, 128, UNKNOWN),
        ("syevd", 8, 16, BATCHED),  # in a loop over kinds of matrix, each for all runs
        ("syevd", 16, 8, FEWER),  # in a loop over runs
    ]
    assert [x[3] for x in verdicts(num_runs=300)] == [BLOCKS, LOOPED, LOOPED, BLOCKS, LOOPED, UNKNOWN, FEWER, FEWER]


def test_the_runs_that_blocks_leave_over_are_not_taken_for_a_loop_over_runs() -> None:
    """300 runs of four matrices in blocks of 16: 18 calls of 64 in a loop, and one of 48 after it."""
    from libraries import BLOCKS, FEWER, Call, verdict

    block, rest = (Call("cusolver_syevd_ffi", number, 512, 512, "f64", "") for number in (64, 48))
    assert verdict(block, 300, "gpu", is_in_loop=True) == BLOCKS
    assert verdict(rest, 300, "gpu", is_in_loop=False) == BLOCKS
    assert verdict(rest, 300, "gpu", is_in_loop=True) == FEWER


def test_a_loop_over_runs_in_a_real_program_is_noticed() -> None:
    """The rule of the test above, on what XLA makes of a map over runs."""
    from accelerator import library_calls
    from hlo import parse
    from libraries import BATCHED, FEWER
    from targets import TARGETS

    def verdicts(function: Any) -> list[tuple[int, str]]:
        text = jax.jit(function).lower(jnp.ones((16, 4, 8, 8))).compile().as_text()
        text = text.replace("lapack_sgeqrf_ffi", "cusolver_geqrf_ffi")
        module = parse(text)
        return [
            (call["times"], call["verdict"])
            for call in library_calls(module, module.steps(), 16, TARGETS["h100"])
            if call["target"] == "cusolver_geqrf_ffi"
        ]

    def factor(matrices: jax.Array) -> jax.Array:
        return jnp.linalg.qr(matrices, mode="r")

    assert verdicts(factor) == [(1, BATCHED)]
    assert verdicts(lambda x: jax.lax.map(factor, x)) == [(16, FEWER)]
    assert verdicts(lambda x: jax.lax.map(factor, jnp.swapaxes(x, 0, 1))) == [(4, BATCHED)]  # kind after kind


def test_predicted_seconds() -> None:
    from targets import TARGETS

    target = dataclasses.replace(
        TARGETS["h100"], bandwidth=1e6, operations={"f32": 1e12, "f32_exact": 1e12, "f64": 1e12}
    )
    sizes, calls, training = (module_of(name) for name in ("gpu_sizes", "gpu_calls", "gpu_training"))

    def seconds(module: Any, name: str, **changes: Any) -> dict[str, float]:
        step = next(step for step in module.steps() if step.instruction.name == name)
        return dataclasses.replace(target, **changes).seconds(module, step, num_runs=16)

    moved, count = 4 * (16 * 128 * 64 + 16 * 64 * 32 + 16 * 128 * 32), 2 * 16 * 128 * 32 * 64
    assert seconds(sizes, "product") == {"launches": target.launch, "bytes": moved / 1e6}
    assert seconds(sizes, "product", bandwidth=1e30, launch=1.0) == {"launches": 1.0, "operations": count / 1e12}
    assert seconds(sizes, "a") == {}
    assert seconds(calls, "svd") == {"looped_calls": 128 * target.looped_call}
    solver = 8 * 9 * 16 * 128**3 / (target.solver_share * 1e12)
    assert seconds(calls, "eigh.1") == {"launches": 8 * target.launch, "batched_calls": pytest.approx(solver)}
    assert seconds(training, "metrics") == {"round_trips": 4 * 2 * 5 * target.round_trip}
    assert seconds(training, "powers") == {"round_trips": target.round_trip}
    assert seconds(training, "trained") == {}


def test_counts_of_a_program_that_runs_here() -> None:
    from hlo import counts

    def loops(x: jax.Array, times: jax.Array) -> jax.Array:
        x = jax.lax.fori_loop(0, 7, lambda _, y: jnp.sort(y), x)  # sorts are never fused
        return jax.lax.fori_loop(0, times, lambda _, y: jnp.sort(y), x)

    text = jax.jit(loops).lower(jnp.zeros(16), jnp.int32(1)).compile().as_text()
    few, many = counts(text, 0), counts(text, 10)
    assert few["while_loops"] == 2
    assert few["loops_of_unknown_length"] == 1
    assert few["launches"] >= 7
    assert many["launches"] - few["launches"] >= 10
    assert (many["launches"] - few["launches"]) % 10 == 0


def test_growth_of_launches_is_noticed() -> None:
    from accelerator import worse

    assert worse({"update": 110.0}, {"update": 100.0}) == []
    assert worse({"update": 111.0}, {"update": 100.0}) == ["an update launches 111 operations, before 100"]


def test_memory_of_other_numbers_of_runs_grows_as_it_is_estimated_to() -> None:
    """A fixed block of 400, and 2 a run, of which 1.5 times was compiled: not a line through 0."""
    from accelerator_tables import memory_for

    row = {"runs": 100, "memory": {"100": 900}, "estimated": {"16": 432, "100": 600, "1000": 2400}}
    assert memory_for(row, 100) == (900, True)
    assert memory_for(row, 1000) == (3600, False)
    assert memory_for(row, 16) == (648, False)


def test_totals_bound_what_is_predicted_step_by_step() -> None:
    from accelerator_tables import bounds_of_ours
    from targets import TARGETS

    target = dataclasses.replace(TARGETS["h100"], bandwidth=1e6, launch=1.0, operations={"f32": 1e9, "f32_exact": 2e8})
    program = {"bytes": 3e6, "launches": 10, "operations": {"f32": 1e9, "pred": 2e8}, "seconds_by": {"round_trips": 5}}
    assert target.bounds(program) == (18, 20)

    rows = json.loads(RESULTS.read_text())
    held = [(name, row) for name in ("h100", "tpu-v5e") for row in rows[name].values() if "predicted" in row]
    assert len(held) >= 5
    for name, row in held:
        least, most = bounds_of_ours(row, TARGETS[name])
        for key in ("update", "plasticity_point", "sweep", "sweep_without_diagnostics"):
            assert 0.999 * least[key] <= row["predicted"][key] <= 1.001 * most[key]


def test_a_setting_without_a_prediction_of_its_own_has_bounds_in_the_table() -> None:
    from accelerator_tables import tables

    rows = json.loads(RESULTS.read_text())["tpu-v5e"]
    predicted = tables("tpu-v5e", rows).split("predicted, not measured")[1]
    line = next(x for x in predicted.splitlines() if "breakout_128" in x)
    assert " to " in line.split(" | ")[3]
    assert " to " in line.split(" | ")[7]


def test_where_the_compiler_is_missing_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerator
    from targets import Target

    def refuse(_: Target) -> list[Any]:
        raise ValueError("Unable to initialize backend\nand more lines")

    monkeypatch.setattr(Target, "devices", refuse)
    monkeypatch.setattr(sys, "argv", ["accelerator.py", "--target", "h100", "--check"])
    with pytest.raises(SystemExit) as stopped:
        accelerator.main()
    assert stopped.value.code == "nothing compiles for h100 here: install .[aot-cuda] (Unable to initialize backend)"


def test_what_is_known_of_rejax_outlives_a_rerun_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerator
    from targets import Target

    row = {"compile_seconds": {"bare": 1.0}}
    monkeypatch.setattr(Target, "devices", lambda _: [])
    monkeypatch.setattr(accelerator, "measure", lambda *_: dict(row))
    monkeypatch.setattr(accelerator, "rejax", lambda *_: {"memory": 2})
    monkeypatch.setattr(accelerator, "tables", lambda *_: "")
    out = tmp_path / "it.json"
    for options, known in (([], {"memory": 2}), (["--no-rejax"], {"memory": 2})):
        command = ["accelerator.py", "--target", "h100", "--settings", "hopper", "--out", str(out), *options]
        monkeypatch.setattr(sys, "argv", command)
        accelerator.main()
        assert json.loads(out.read_text())["h100"]["hopper"].get("rejax") == known


def committed() -> list[tuple[str, str]]:
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    return [(target, name) for target in ("h100", "tpu-v5e") for name in found.get(target, {})]


@pytest.mark.parametrize(("target", "name"), committed())
def test_memory_is_estimated_within_a_quarter_of_what_the_compiler_says(target: str, name: str) -> None:
    from accelerator import on
    from settings import SWEEPS
    from targets import TARGETS

    from purejaxppo import Sweep
    from purejaxppo.sweep.memory import estimate_run
    from purejaxppo.sweep.plan import make_groups

    row = json.loads(RESULTS.read_text())[target][name]
    config, hparams = SWEEPS[name]
    group = make_groups(Sweep(name=name, seeds=tuple(range(row["runs"])), config=config, hparams=hparams))[0]
    with on(TARGETS[target]):
        estimated = estimate_run(group)
    ratio = estimated / (row["memory"][str(row["runs"])] / row["runs"])
    assert 0.75 <= ratio <= 1.25

"""What a compiled program does on its device, read from its text (HLO after optimisation). No command.

The text is what `compiled.as_text()` gives: computations of one instruction a line, loops with the number of their
trips where XLA knows it, and tables that lead from an instruction to the Python function that it comes from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

# What computes and moves nothing, or only leads to other computations.
NOTHING = {
    "add-dependency",
    "after-all",
    "async-update",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
}
# Custom calls that stand for memory or for a mark in the program.
MARKS = {"AllocateBuffer", "AssumeGatherIndicesInBound", "Sharding", "ConcatBitcast", "SliceIntermediateBuffer"}
_BYTES = {"pred": 1, "s4": 1, "u4": 1, "c64": 8, "c128": 16}  # of the others their bits are in the name
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,<=]*)\]")
_TRIPS = re.compile(r'"?known_trip_count"?:\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Array:
    """Type and sizes of an array."""

    dtype: str
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.sizes)

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        bits = re.search(r"\d+", self.dtype)
        return self.size * (_BYTES.get(self.dtype) or (max(int(bits[0]) // 8, 1) if bits else 0))


@dataclass(frozen=True, eq=False)
class Instruction:
    """One line of a computation. `results` are the arrays that it gives, `rest` are its attributes as written."""

    name: str
    results: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    @property
    def is_launch(self) -> bool:
        """Whether the device gets something to do: a kernel, a copy, a call of a library."""
        return not (self.opcode in NOTHING or self.opcode.endswith("-done") or self.target in MARKS)

    @property
    def target(self) -> str | None:
        """What a custom call calls."""
        found = re.search(r'custom_call_target="([^"]+)"', self.rest)
        return found[1] if found else None

    @property
    def trips(self) -> int | None:
        """How often a loop's body runs; None where the program does not say."""
        found = _TRIPS.search(self.rest)
        return int(found[1]) if found else None

    def called(self, *attributes: str) -> list[str]:
        """The computations that attributes such as `body` name."""
        return [name for key in attributes for name in re.findall(rf"\b{key}=%?([\w.\-]+)", self.rest)]

    @property
    def branches(self) -> list[str]:
        """The computations among which a condition chooses."""
        if listed := re.search(r"branch_computations=\{([^}]*)\}", self.rest):
            return [name.strip().lstrip("%") for name in listed[1].split(",")]
        return self.called("true_computation", "false_computation")


@dataclass(frozen=True)
class Loop:
    """A loop around an instruction: the Python function that it was written in, and its trips (None: unknown)."""

    function: str
    trips: int | None


@dataclass(frozen=True)
class Step:
    """An instruction that is reached `times` times in one call of the program, within `loops`, outermost first."""

    instruction: Instruction
    times: int
    loops: tuple[Loop, ...]


@dataclass
class Module:
    """A program: its computations by name, and of each stack frame the names of the functions, innermost first."""

    entry: str = ""
    computations: dict[str, dict[str, Instruction]] = field(default_factory=dict)
    frames: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def steps(self, unknown_trips: int = 1) -> list[Step]:
        """All instructions that one call of the program reaches, those of fused computations not.

        A loop of unknown length is taken to run `unknown_trips` times; of a condition the branch with the fewest
        launches is taken.
        """
        return list(self._steps(self.entry, 1, (), unknown_trips))

    def _steps(self, name: str, times: int, loops: tuple[Loop, ...], unknown: int) -> Iterator[Step]:
        for instruction in self.computations[name].values():
            yield Step(instruction, times, loops)
            if instruction.opcode == "while":
                loop = Loop(self.function(instruction), instruction.trips)
                trips = unknown if loop.trips is None else loop.trips
                yield from self._steps(instruction.called("body")[0], times * trips, (*loops, loop), unknown)
            elif instruction.opcode == "conditional":
                branches = [list(self._steps(x, times, loops, unknown)) for x in instruction.branches]
                yield from min(branches, key=launches)
            elif instruction.opcode == "call":
                yield from self._steps(instruction.called("to_apply")[0], times, loops, unknown)

    def function(self, instruction: Instruction) -> str:
        """The Python function whose line an instruction comes from; "" where the text does not tell."""
        found = re.search(r"stack_frame_id=(\d+)", instruction.rest)
        return self.frames.get(int(found[1]), ("",))[0] if found else ""


def launches(steps: list[Step]) -> int:
    """How many kernels, copies and library calls steps launch; what a library call launches itself counts as one."""
    return sum(step.times for step in steps if step.instruction.is_launch)


def parse(text: str) -> Module:
    """Read a compiled program's text."""
    module, name = Module(), ""
    module.frames.update(_frames(text))
    for line in text.splitlines():
        if found := _INSTRUCTION.match(line):
            is_root, own, shape, opcode, rest = found.groups()
            inside, rest = _split_at_closing(rest)
            module.computations[name][own] = Instruction(
                name=own,
                results=arrays(shape),
                opcode=opcode,
                operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
                rest=rest if opcode != "parameter" else inside,
                is_root=bool(is_root),
            )
        elif found := _COMPUTATION.match(line):
            name = found[2]
            module.computations[name] = {}
            module.entry = name if found[1] else module.entry
    return module


def arrays(shape: str) -> tuple[Array, ...]:
    """The arrays in a shape as written, such as `(f32[16,4]{1,0}, pred[])`."""
    return tuple(
        Array(dtype, tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size))
        for dtype, sizes in _ARRAY.findall(shape)
    )


def _split_at_closing(text: str) -> tuple[str, str]:
    """`text` before and after the parenthesis that closes one opened before it."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[:i], text[i + 1 :]
    return text, ""


def _frames(text: str) -> dict[int, tuple[str, ...]]:
    """Of every stack frame the names of its functions, innermost first, from the tables at the head of the text."""
    head = text.partition("\nStackFrames\n")
    if not head[1]:
        return {}
    functions = dict(re.findall(r'^(\d+) "([^"]*)"$', head[0].partition("\nFunctionNames\n")[2], re.M))
    locations = dict(re.findall(r"^(\d+) \{file_name_id=\d+ function_name_id=(\d+)", head[0], re.M))
    pattern = r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?\}$"
    # A parent's number is written one higher than it is; 1 stands for none.
    raw = {int(i): (functions[locations[at]], int(up or 1) - 1) for i, at, up in re.findall(pattern, head[2], re.M)}

    def names(i: int) -> Iterator[str]:
        seen = set()
        while i in raw and i not in seen:
            seen.add(i)
            yield raw[i][0].rpartition("<locals>.")[2]
            i = raw[i][1]

    return {i: tuple(names(i)) for i in raw}

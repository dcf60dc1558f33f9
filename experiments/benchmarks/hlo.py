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
_PARTS = {"dynamic-slice", "gather", "slice"}  # they read as much as they give
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
    computation: str
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
    """A loop around an instruction: its own, the Python functions that it was written in, innermost first, and trips.

    trips: how often its body runs; None where the program does not say.
    """

    name: str
    functions: tuple[str, ...]
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
                loop = Loop(instruction.name, self.functions(instruction), self.trips(instruction))
                trips = unknown if loop.trips is None else loop.trips
                yield from self._steps(instruction.called("body")[0], times * trips, (*loops, loop), unknown)
            elif instruction.opcode == "conditional":
                branches = [list(self._steps(x, times, loops, unknown)) for x in instruction.branches]
                yield from min(branches, key=launches)
            elif instruction.opcode == "call":
                yield from self._steps(instruction.called("to_apply")[0], times, loops, unknown)

    def functions(self, instruction: Instruction) -> tuple[str, ...]:
        """The Python functions whose lines an instruction comes from, innermost first; empty where the text is mute."""
        found = re.search(r"stack_frame_id=(\d+)", instruction.rest)
        return self.frames.get(int(found[1]), ()) if found else ()

    def trips(self, loop: Instruction) -> int | None:
        """How often a loop's body runs; None where the program does not say.

        The TPU's compiler does not write it down: there it is the constant that the loop's counter is compared with,
        as loops of JAX count from 0.
        """
        if found := _TRIPS.search(loop.rest):
            return int(found[1])
        condition = self.computations[loop.called("condition")[0]]
        root = next(x for x in condition.values() if x.is_root)
        bounds = [condition[x].rest for x in root.operands if condition[x].opcode == "constant"]
        is_counted = root.opcode == "compare" and "direction=LT" in root.rest and len(bounds) == 1
        return int(bounds[0]) if is_counted and bounds[0].isdigit() else None

    def operands(self, instruction: Instruction) -> list[Array]:
        """The arrays that an instruction reads."""
        own = self.computations[instruction.computation]
        return [array for name in instruction.operands if name in own for array in own[name].results]


def launches(steps: list[Step]) -> int:
    """How many kernels, copies and library calls steps launch; what a library call launches itself counts as one."""
    return sum(step.times for step in steps if step.instruction.is_launch)


def counts(text: str, unknown_trips: int) -> dict[str, int]:
    """What a program's text holds, and the launches of one call; loops of unknown length run `unknown_trips` times."""
    module = parse(text)
    steps = module.steps(unknown_trips)
    opcodes = [step.instruction.opcode for step in steps]
    return {
        "fusions": opcodes.count("fusion"),
        "custom_calls": opcodes.count("custom-call"),
        "while_loops": opcodes.count("while"),
        "loops_of_unknown_length": sum(
            step.instruction.opcode == "while" and module.trips(step.instruction) is None for step in steps
        ),
        "launches": launches(steps),
    }


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
                computation=name,
                results=arrays(shape),
                opcode=opcode,
                operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
                rest=rest if opcode not in ("parameter", "constant") else inside,
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


def moved_bytes(module: Module, instruction: Instruction) -> int:
    """Bytes that an instruction reads and writes, if nothing is kept in a cache.

    Of what is only sliced or gathered from, the part; of what is updated in place, the update.
    """
    if instruction.opcode == "fusion":
        return _bytes_of_fusion(module, instruction)
    written = sum(array.bytes for array in instruction.results)
    if instruction.opcode in _PARTS:
        return 2 * written
    if instruction.opcode == "dynamic-update-slice":
        return 2 * module.operands(instruction)[1].bytes
    if instruction.opcode.endswith("-start"):  # its result lists operands as well
        return 2 * sum(array.bytes for array in module.operands(instruction))
    return written + sum(array.bytes for array in module.operands(instruction))


def _bytes_of_fusion(module: Module, fusion: Instruction) -> int:
    inside = module.computations[fusion.called("calls")[0]]
    users: dict[str, list[Instruction]] = {}
    for instruction in inside.values():
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)

    def source(name: str) -> Instruction:
        found = inside[name]
        return source(found.operands[0]) if found.opcode == "bitcast" else found

    def all_users(name: str) -> Iterator[tuple[str, Instruction]]:
        for user in users.get(name, []):
            if user.opcode == "bitcast":
                yield from all_users(user.name)
            else:
                yield name, user

    total = 0
    for parameter in (x for x in inside.values() if x.opcode == "parameter"):
        read = 0
        for name, user in all_users(parameter.name):
            if user.opcode in _PARTS and user.operands[0] == name:
                read += sum(array.bytes for array in user.results)
            elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
                read = math.inf
        total += min(read, sum(array.bytes for array in parameter.results))
    root = next(x for x in inside.values() if x.is_root)
    for name in root.operands if root.opcode == "tuple" else (root.name,):
        result = source(name)
        if result.opcode == "dynamic-update-slice":
            result = inside[result.operands[1]]
        total += sum(array.bytes for array in result.results)
    return int(total)


def multiplied(module: Module, instruction: Instruction) -> Iterator[tuple[str, int]]:
    """(type, operations) of every matrix product and convolution in an instruction, two for a multiply and add.

    The type is that of the operands (of the floats, where Booleans or integers are multiplied by them), `f32_exact`
    where float32 products may not be rounded to fewer bits.
    """
    if instruction.opcode == "fusion":
        for inner in module.computations[instruction.called("calls")[0]].values():
            yield from multiplied(module, inner)
        return
    operands = module.operands(instruction)
    result = instruction.results[0].size if instruction.results else 0
    target = instruction.target or ""
    count = 0
    if instruction.opcode == "dot" or target.startswith("__cublas"):
        sizes = re.search(r'lhs_contracting_dim(?:s|ensions"?:?)[={:\[]*([\d,"]*)', instruction.rest)
        contracted = [int(x) for x in re.findall(r"\d+", sizes[1])] if sizes else []
        count = 2 * result * math.prod(operands[0].sizes[axis] for axis in contracted)
    elif instruction.opcode == "convolution" or target.startswith("__cudnn$conv"):
        count = _of_convolution(instruction, operands)
    if count:
        dtype = next((x.dtype for x in operands[:2] if x.dtype[0] in "bf"), operands[0].dtype)
        is_exact = "operand_precision={highest" in instruction.rest and dtype == "f32"
        yield ("f32_exact" if is_exact else dtype), count


def _of_convolution(instruction: Instruction, operands: list[Array]) -> int:
    """Operations of a convolution: two for every output, element of the window and input channel of its group.

    The TPU's compiler writes batched products as convolutions whose window is dilated to let one element through.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    target = instruction.target or ""
    if not labels:
        return 0
    # A gradient's convolution is counted as the forward one: [input, kernel, output] by what it gives.
    if "BackwardFilter" in target:
        kernel, output = instruction.results[0], operands[1]
    elif "BackwardInput" in target:
        kernel, output = operands[1], operands[0]
    else:
        kernel, output = operands[1], instruction.results[0]
    window = math.prod(kernel.sizes[i] for i, label in enumerate(labels[2]) if label.isdigit())
    if "lhs_dilate" in instruction.rest and target == "":
        window = 1
    return 2 * output.size * window * kernel.sizes[labels[2].index("i")]

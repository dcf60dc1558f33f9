"""What a compiled program launches: operations counted in its text (HLO after optimisation)."""

from __future__ import annotations

import re
from collections import Counter

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = .+? ([a-z][\w\-]*)\(")
_TRIP_COUNT = re.compile(r'"?known_trip_count"?:\{"n":"(\d+)"\}')
_NOTHING = {
    "after-all",
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


def count_operations(text: str, unknown_trips: int) -> dict[str, int]:
    """Operations in a compiled program's text, and how many it launches in one call.

    `fusions`, `custom_calls` and `while_loops` occur in the program; `launches` are all operations that compute or move
    data, those of a loop's body times its number of trips (`unknown_trips` where the program does not say it), those of
    a condition from its smallest branch. What a library call launches itself counts as one.
    """
    entry, computations = _parse(text)
    reached: set[str] = set()
    found: Counter[str] = Counter()
    unknown = 0

    def launches(name: str) -> int:
        nonlocal unknown
        total, is_new = 0, name not in reached
        reached.add(name)
        for opcode, line in computations[name]:
            found[opcode] += is_new
            if opcode == "while":
                trips = _TRIP_COUNT.search(line)
                unknown += is_new and trips is None
                total += (int(trips[1]) if trips else unknown_trips) * launches(_called(line, "body")[0])
            elif opcode == "conditional":
                total += min(launches(branch) for branch in _branches(line))
            elif opcode == "call":
                total += launches(_called(line, "to_apply")[0])
            else:
                total += opcode not in _NOTHING and not opcode.endswith("-done")
        return total

    total = launches(entry)
    return {
        "fusions": found["fusion"],
        "custom_calls": found["custom-call"],
        "while_loops": found["while"],
        "loops_of_unknown_length": unknown,
        "launches": total,
    }


def _parse(text: str) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """Name of the entry computation, and of every computation its instructions as (opcode, line)."""
    entry, name = "", ""
    computations: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        if instruction := _INSTRUCTION.match(line):
            computations[name].append((instruction[1], line))
        elif computation := _COMPUTATION.match(line):
            name = computation[2]
            computations[name] = []
            entry = name if computation[1] else entry
    return entry, computations


def _called(line: str, attribute: str) -> list[str]:
    return re.findall(rf"\b{attribute}=%?([\w.\-]+)", line)


def _branches(line: str) -> list[str]:
    if listed := re.search(r"branch_computations=\{([^}]*)\}", line):
        return [name.strip().lstrip("%") for name in listed[1].split(",")]
    return _called(line, "true_computation") + _called(line, "false_computation")

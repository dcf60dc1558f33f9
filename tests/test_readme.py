"""What the README says is what the code says. `python tests/test_readme.py` writes the generated parts anew."""

import re
from pathlib import Path

from purejaxppo.diagnostics.registry import HEADLINE, METRICS

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"(<!-- metrics: [^\n]*-->\n).*?(<!-- end of metrics -->)", re.DOTALL)


def metrics_table() -> str:
    """The headline metrics, without sources, one line each."""
    rows = [(m.name, m.units or "", m.definition.replace("|", "\\|")) for m in (METRICS[name] for name in HEADLINE)]
    lines = [f"| `{name}` | {units} | {definition} |" for name, units, definition in rows]
    return "\n".join(["| name | units | definition |", "|---|---|---|", *lines]) + "\n"


def test_the_metrics_table_is_the_registrys() -> None:
    found = BLOCK.search(README.read_text(encoding="utf-8"))
    assert found
    assert found[0] == f"{found[1]}{metrics_table()}{found[2]}"


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda found: f"{found[1]}{metrics_table()}{found[2]}", text), encoding="utf-8")

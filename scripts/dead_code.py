"""Find code that nothing calls but tests: `make check` runs it, with vulture.

Fields of models and dataclasses count as called: what is written into a file is read by people. So do functions and
classes that are named in a text as `module:attribute`. What else may stand is listed here, with the reason.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from vulture import Vulture
from vulture.core import Item

ROOT: Final = Path(__file__).resolve().parent.parent
SEARCHED: Final = ("morphseq_dagster", "scripts", "benchmarks")
ALLOWED: Final = {
    "Dagster calls it": "config_type from_config_value supports_resume_run supports_check_run_worker_health launch_run "
    "resume_run check_run_worker_health SuspendingRunLauncher SuspendingRunCoordinator handle_output load_input defs",
    "a library calls it or reads it": "readable readinto list_commands model_config settings_customise_sources "
    "__annotations__ __call__ creator created compress_type external_attr trace",
    "a value that users choose": "easy hard sge",
    "the workbook of the demo plate reads it by the name of its sheet": "embryos_per_well",
    "the comparison of cohorts is used by the issue on trust": "compare_manifest encode_manifest is_stale",
}
_FIELD: Final = re.compile(r"\s+\w+: ")
_NAMED: Final = re.compile(r"\w:(\w+)[\"'`]")


def main() -> int:
    """Print what nothing calls; return 1 when there is any."""
    vulture = Vulture(ignore_decorators=["@verb", "@app.callback", "@recipe.callback", "@*_validator"])
    vulture.scavenge([str(ROOT / name) for name in SEARCHED], exclude=["*/testing/*"])
    sources = {path: path.read_text(encoding="utf-8") for name in SEARCHED for path in (ROOT / name).rglob("*.py")}
    named = {name for text in sources.values() for name in _NAMED.findall(text)}
    allowed = {name for names in ALLOWED.values() for name in names.split()}
    dead = [
        item
        for item in vulture.get_unused_code(min_confidence=60)
        if item.name not in allowed | named and not _is_field(item)
    ]
    for item in dead:
        print(f"{item.filename.relative_to(ROOT)}:{item.first_lineno}: nothing calls the {item.typ} {item.name}")
    return 1 if dead else 0


def _is_field(item: Item) -> bool:
    lines = Path(item.filename).read_text(encoding="utf-8").splitlines()
    return item.typ == "variable" and _FIELD.match(lines[item.first_lineno - 1]) is not None


if __name__ == "__main__":
    sys.exit(main())

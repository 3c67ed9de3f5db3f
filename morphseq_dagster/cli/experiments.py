"""`morphseq experiments`: what lies in the raw folders - ready, acquiring, refused - each with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from morphseq_dagster.cli.messages import print_json, printable
from morphseq_dagster.cli.options import Call, Form, Format, verb
from morphseq_dagster.engine.pipeline import FoundSource


@verb(example="morphseq experiments")
def experiments(call: Call, form: Form = Format.table) -> None:
    """List the experiments in the raw folders with their state."""
    layout, sources = call.workspace.layout, call.workspace.pipeline.sources
    found = sources.discover(layout) if sources is not None else ()
    if form is Format.json:
        print_json({"schema": "morphseq.experiments", "version": 1, "experiments": [_encode(entry) for entry in found]})
        return
    if not found:
        print(f"no experiments below {sources.root(layout) if sources is not None else layout.data_root}")
        return
    print("\n".join(_draw(found)))


def _draw(found: tuple[FoundSource, ...]) -> Iterable[str]:
    names = [printable(entry.name) for entry in found]
    width, wide = max(map(len, names)), max(len(entry.kind) for entry in found)
    for name, entry in zip(names, found, strict=True):
        files = f"{entry.files:>7} files" if entry.state != "refused" else " " * 13
        wait = f", ready in {_span(entry.ready_in_s)}" if entry.ready_in_s is not None else ""
        yield (
            f"{name:<{width}}  {printable(entry.kind):<{wide}}  {entry.state:<9}  {files}  "
            f"{printable(entry.reason)}{wait}"
        )
        yield from (f"{'':<{width}}  {'':<{wide}}  note: {printable(remark)}" for remark in entry.remarks)
    counts = Counter(entry.state for entry in found)
    yield f"{len(found)} found: " + ", ".join(f"{counts[s]} {s}" for s in ("ready", "acquiring", "refused"))


def _encode(entry: FoundSource) -> dict[str, Any]:
    values = {("microscope" if name == "kind" else name): value for name, value in asdict(entry).items()}
    return values | {"workbook": None if entry.workbook is None else str(entry.workbook)}


def _span(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"

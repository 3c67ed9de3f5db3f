"""The asset graph as SVG, drawn from the pipeline: equal pipelines give equal bytes.

Rows are the longest way from the start, columns the groups of the web page. An edge that follows from others is left
out; the full list of inputs stands in docs/outputs.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final
from xml.sax.saxutils import escape

from morphseq_dagster.engine.contract.step import StepSpec
from morphseq_dagster.engine.pipeline import Pipeline

_NODE: Final = (148, 40)
_STEP: Final = (158, 62)
_RADIUS: Final = 9.0
_MARGIN: Final = (22, 44)
_FILL: Final = {
    "build01": "#dbeafe",
    "sam2": "#dcfce7",
    "build02": "#f3f4f6",
    "build03": "#fef3c7",
    "build04": "#ffe4d5",
    "latents": "#ede9fe",
    "build06": "#fce7f3",
    "cohort": "#ffffff",
}
_STROKE: Final = {
    "build01": "#3b82f6",
    "sam2": "#16a34a",
    "build02": "#6b7280",
    "build03": "#d97706",
    "build04": "#ea580c",
    "latents": "#7c3aed",
    "build06": "#db2777",
    "cohort": "#6b7280",
}

_HEAD: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"
  font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace">
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">
  <path d="M0 0.6 L7.4 4 L0 7.4 z" fill="#64748b"/></marker></defs>"""

Edge = tuple[str, str]


@dataclass(frozen=True)
class _Drawing:
    """Place of every node: lane (across) and row (down)."""

    lanes: Mapping[str, int]
    rows: Mapping[str, int]

    def corner(self, name: str) -> tuple[float, float]:
        return _MARGIN[0] + self.lanes[name] * _STEP[0], _MARGIN[1] + self.rows[name] * _STEP[1]

    def path(self, edge: Edge) -> str:
        """Line of an edge: down, across between two rows, down its target's lane."""
        (x0, y0), (x1, y1) = self.corner(edge[0]), self.corner(edge[1])
        x0, x1, y0 = x0 + _NODE[0] / 2, x1 + _NODE[0] / 2, y0 + _NODE[1]
        if x0 == x1:
            return f"M{x0:g} {y0:g} V{y1:g}"
        level = y0 + (_STEP[1] - _NODE[1]) / 2 - 1
        turn = _RADIUS if x1 > x0 else -_RADIUS
        return (
            f"M{x0:g} {y0:g} V{level - _RADIUS:g} Q{x0:g} {level:g} {x0 + turn:g} {level:g} "
            f"H{x1 - turn:g} Q{x1:g} {level:g} {x1:g} {level + _RADIUS:g} V{y1:g}"
        )


def draw_asset_graph(pipeline: Pipeline) -> str:
    """Draw the steps of a pipeline, and at the end the cohort, which reads the final artifact of every key."""
    specs = {spec.name: spec for spec in pipeline.steps}
    inputs = {spec.name: tuple(spec.inputs) for spec in pipeline.steps}
    if pipeline.cohort is not None:
        specs[pipeline.cohort.name] = pipeline.cohort
        inputs[pipeline.cohort.name] = (pipeline.final,)
    edges = _reduce(inputs)
    drawing = _place(specs, inputs=inputs, edges=edges)
    width = 2 * _MARGIN[0] + max(drawing.lanes.values()) * _STEP[0] + _NODE[0]
    height = _MARGIN[1] + max(drawing.rows.values()) * _STEP[1] + _NODE[1] + 22
    lines = [
        *_HEAD.format(width=width, height=height).splitlines(),
        f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff" stroke="#e2e8f0"/>',
    ]
    lines += _draw_headings(specs, drawing=drawing, height=height)
    lines += [_draw_edge(drawing, edge) for edge in edges]
    titles = {artifact.name: artifact.description for artifact in pipeline.artifacts}
    for name, spec in specs.items():
        lines += _draw_node(spec, drawing=drawing, title=titles[name])
    return "\n".join([*lines, "</svg>", ""])


def _reduce(inputs: Mapping[str, Sequence[str]]) -> list[Edge]:
    """Edges without those that follow from others."""
    above: dict[str, set[str]] = {}
    for name, read in inputs.items():
        above[name] = set(read).union(*(above[other] for other in read))
    return [
        (read, name)
        for name, all_read in inputs.items()
        for read in all_read
        if not any(read in above[other] for other in all_read)
    ]


def _place(specs: Mapping[str, StepSpec], *, inputs: Mapping[str, Sequence[str]], edges: Sequence[Edge]) -> _Drawing:
    """Choose lanes: each group has as many as it needs for its fullest row and for edges not to run behind nodes."""
    rows: dict[str, int] = {}
    for name, read in inputs.items():
        rows[name] = 1 + max((rows[other] for other in read), default=-1)
    groups: dict[str, list[str]] = {}
    for name, spec in specs.items():
        groups.setdefault("latents" if spec.group == "cohort" else spec.group, []).append(name)
    widths = {
        group: max(sum(rows[other] == rows[name] for other in names) for name in names)
        for group, names in groups.items()
    }
    while True:
        drawing = _arrange(groups, choices=_choices(groups, widths=widths), rows=rows, edges=edges)
        hidden = [name for edge in edges for name in _behind(drawing, edge)]
        crowded = next((group for group, names in groups.items() if set(hidden) & set(names)), None)
        if crowded is None or widths[crowded] == len(groups[crowded]):
            return drawing
        widths[crowded] += 1


def _choices(groups: Mapping[str, Sequence[str]], *, widths: Mapping[str, int]) -> dict[str, range]:
    """Lanes that each node may take."""
    choices: dict[str, range] = {}
    first = 0
    for group, names in groups.items():
        choices |= dict.fromkeys(names, range(first, first + widths[group]))
        first += widths[group]
    return choices


def _arrange(
    groups: Mapping[str, Sequence[str]],
    *,
    choices: Mapping[str, range],
    rows: Mapping[str, int],
    edges: Sequence[Edge],
) -> _Drawing:
    """Try every placement of one group after the other, until no group can be placed better."""
    lanes = {name: lane for names in groups.values() for name, lane in _placements(names, choices, rows)[0].items()}
    best = _cost(_Drawing(lanes, rows), edges)
    improved = True
    while improved:
        improved = False
        for names in groups.values():
            for placement in _placements(names, choices, rows):
                changed = lanes | placement
                cost = _cost(_Drawing(changed, rows), edges)
                if cost < best:
                    lanes, best, improved = changed, cost, True
    return _Drawing(lanes, rows)


def _placements(names: Sequence[str], choices: Mapping[str, range], rows: Mapping[str, int]) -> list[dict[str, int]]:
    """All placements of a group in which no two nodes share a place."""
    found = (dict(zip(names, lanes, strict=True)) for lanes in product(*(choices[name] for name in names)))
    return [p for p in found if len({(lane, rows[name]) for name, lane in p.items()}) == len(p)]


def _behind(drawing: _Drawing, edge: Edge) -> list[str]:
    """Nodes behind which an edge would run."""
    lane, between = drawing.lanes[edge[1]], range(drawing.rows[edge[0]] + 1, drawing.rows[edge[1]])
    return [name for name in drawing.lanes if drawing.lanes[name] == lane and drawing.rows[name] in between]


def _cost(drawing: _Drawing, edges: Sequence[Edge]) -> float:
    """Length across, and a high price for every edge that runs behind a node."""
    cost = 0.0
    for edge in edges:
        cost += abs(drawing.lanes[edge[0]] - drawing.lanes[edge[1]]) + 10 * len(_behind(drawing, edge))
    for number, (a, b) in enumerate(edges):
        for c, d in edges[:number]:
            if a != c and b != d and drawing.rows[a] == drawing.rows[c]:
                cost += 3 * (_span(drawing, (a, b)) & _span(drawing, (c, d)) != set())
    return cost


def _span(drawing: _Drawing, edge: Edge) -> set[int]:
    """Spaces between lanes that an edge goes across; two edges in one space cannot be told apart."""
    first, last = sorted((drawing.lanes[edge[0]], drawing.lanes[edge[1]]))
    return set(range(first, last))


def _draw_headings(specs: Mapping[str, StepSpec], *, drawing: _Drawing, height: float) -> Iterator[str]:
    lanes: dict[str, list[int]] = {}
    for name, spec in specs.items():
        lanes.setdefault("latents" if spec.group == "cohort" else spec.group, []).append(drawing.lanes[name])
    for group, used in lanes.items():
        left = _MARGIN[0] + min(used) * _STEP[0]
        right = _MARGIN[0] + max(used) * _STEP[0] + _NODE[0]
        yield (f'<rect x="{left - 3}" y="10" width="{right - left + 6}" height="{height - 20}" rx="8" fill="#f5f7fa"/>')
        yield (
            f'<text x="{(left + right) / 2:g}" y="29" font-size="13" fill="#64748b" text-anchor="middle" '
            f'font-family="system-ui, -apple-system, Segoe UI, sans-serif">{escape(group)}</text>'
        )


def _draw_edge(drawing: _Drawing, edge: Edge) -> str:
    return f'<path d="{drawing.path(edge)}" fill="none" stroke="#94a3b8" stroke-width="1.4" marker-end="url(#tip)"/>'


def _draw_node(spec: StepSpec, *, drawing: _Drawing, title: str) -> Iterator[str]:
    x, y = drawing.corner(spec.name)
    fill, stroke = _FILL.get(spec.stage, "#ffffff"), _STROKE.get(spec.stage, "#6b7280")
    middle = x + _NODE[0] / 2
    yield f"<g><title>{escape(title)}</title>"
    yield (
        f'<rect x="{x:g}" y="{y:g}" width="{_NODE[0]}" height="{_NODE[1]}" rx="6" fill="{fill}" '
        f'stroke="{stroke}" stroke-width="1.2"/>'
    )
    yield (
        f'<text x="{middle:g}" y="{y + 17:g}" font-size="11.5" fill="#0f172a" text-anchor="middle">'
        f"{escape(spec.name)}</text>"
    )
    yield (
        f'<text x="{middle:g}" y="{y + 32:g}" font-size="10" fill="{stroke}" text-anchor="middle">'
        f"{escape(spec.stage)}</text></g>"
    )

"""Make the pictures in docs/pictures: the asset graph from the pipeline, the others from the demo plate.

`python scripts/make_pictures.py` makes the demo plate in a temporary folder and runs it, about half a minute;
`--graph-only` draws the graph alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from asset_graph import draw_asset_graph
from page import DOCS
from plate_pictures import draw_plate, draw_snips

from morphseq_dagster.demo.plate import make_plate
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.testing.chain import run_chain

EXPERIMENT = "20240418_demo"
_TIME_INT = 6


def main() -> int:
    """Make the pictures; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/make_pictures.py", description=__doc__)
    parser.add_argument("--folder", type=Path, default=DOCS / "pictures")
    parser.add_argument("--graph-only", action="store_true")
    parser.add_argument("--data-root", type=Path, help="a data root that holds the finished demo plate")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    graph = draw_asset_graph(MORPHSEQ)
    (folder / "asset_graph.svg").write_text(graph, encoding="utf-8")
    if options.graph_only:
        return 0
    if options.data_root is not None:
        _draw(Workspace(options.data_root.absolute(), MORPHSEQ), folder=folder)
        return 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_plate(root / "data", truth_folder=root / "truth", experiment=EXPERIMENT)
        workspace = Workspace(root / "data", MORPHSEQ)
        run_chain(workspace, EXPERIMENT)
        _draw(workspace, folder=folder)
    return 0


def _draw(workspace: Workspace, *, folder: Path) -> None:
    layout = workspace.layout
    (folder / "detected_plate.png").write_bytes(draw_plate(layout, EXPERIMENT, time_int=_TIME_INT))
    (folder / "snips.png").write_bytes(draw_snips(layout, EXPERIMENT, time_int=_TIME_INT))


if __name__ == "__main__":
    sys.exit(main())

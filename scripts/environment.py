"""Write .env, make the folders that it names and put dagster.yaml into DAGSTER_HOME.

Run by `make install` and cheap enough for every `make`. Nothing that exists is written over: .env and
dagster.yaml belong to the user from then on. `morphseq_dagster/settings` reads them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dotenv import dotenv_values

ROOT = Path(__file__).resolve().parent.parent

TEMPLATE = """\
# This machine's settings, read by dagster and morphseq. In the form ${{NAME:-value}} an exported NAME wins.
DAGSTER_HOME="${{DAGSTER_HOME:-{root}/.dagster_home}}"
MORPHSEQ_DATA_ROOT="${{MORPHSEQ_DATA_ROOT:-{root}/data_root}}"
# 1: an experiment whose raw folder is there is registered as a partition when the definitions load.
MORPHSEQ_REGISTER_PARTITIONS="${{MORPHSEQ_REGISTER_PARTITIONS:-1}}"
"""


def write_once(path: Path, text: str) -> bool:
    """Write `text` to `path` unless something is there; say whether it was written.

    The file appears whole or not at all, also when two of these programs run at once.
    """
    if path.exists():
        return False
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def prepare_dagster_home(home: Path) -> None:
    """Put dagster.yaml into a home that has none, and say how many steps the pool `gpu` bears.

    The default limit of dagster.yaml holds only once a pool is known: two runs that were the first to use it
    have been seen inside at once.
    """
    template = ROOT / "morphseq_dagster" / "templates" / "dagster.yaml"
    if write_once(home / "dagster.yaml", template.read_text(encoding="utf-8")):
        subprocess.run(
            [sys.executable, "-m", "dagster", "instance", "concurrency", "set", "gpu", "1"],
            env={**os.environ, "DAGSTER_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            check=True,
        )


def main() -> int:
    """Set this checkout up; return the exit status."""
    if any(character in str(ROOT) for character in '"\\$`}\n'):
        print(f"{ROOT}: .env cannot quote this path. Move the checkout.", file=sys.stderr)
        return 1
    if write_once(ROOT / ".env", TEMPLATE.format(root=ROOT)):
        print("Wrote .env")

    values = dotenv_values(ROOT / ".env")
    for name in ("DAGSTER_HOME", "MORPHSEQ_DATA_ROOT"):
        # A line that the user took out of .env leaves the word to the exported variable.
        value = values.get(name) or os.environ.get(name)
        if not value:
            print(
                f"{ROOT / '.env'} gives no {name}. Add the line, or remove .env and try again.",
                file=sys.stderr,
            )
            return 1
        if not Path(value).is_absolute():
            print(f"{name}={value}: Dagster wants an absolute path.", file=sys.stderr)
            return 1
        Path(value).mkdir(parents=True, exist_ok=True)
        if name == "DAGSTER_HOME":
            prepare_dagster_home(Path(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())

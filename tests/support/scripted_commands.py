"""Commands of a scheduler that answer what a test tells them, and keep a list of their calls."""

from __future__ import annotations

from pathlib import Path

KEY = "ab" * 32
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
DBD_DOWN = "sacct: error: failed to open persistent connection to host:localhost:6819: Connection refused"
FIELDS = "JobIDRaw JobName State ExitCode NodeList MaxRSS"


class ScriptedCommands:
    """Programs on PATH with a text for either stream and a code, and a list of their calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("sbatch", "squeue", "sacct", "scancel"):
            self.answer(name)
        self.answer("sacct", body=f'case "$*" in *-e*) echo {FIELDS};; esac')

    def answer(self, name: str, *, out: str = "", err: str = "", code: int = 0, body: str = "") -> None:
        path = self.folder / name
        (self.folder / f"{name}.out").write_text(out)
        (self.folder / f"{name}.err").write_text(err)
        path.write_text(
            f'#!/bin/bash\ncat <<<"$*" >> {self.folder}/{name}.calls\n{body}\n'
            f"cat {self.folder}/{name}.err >&2\ncat {self.folder}/{name}.out\nexit {code}\n"
        )
        path.chmod(0o755)

    def accounts(self, out: str) -> None:
        self.answer("sacct", body=f'case "$*" in *-e*) echo {FIELDS}; exit 0;; *-X*) exit 0;; esac', out=out)

    def calls(self, name: str) -> list[str]:
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []

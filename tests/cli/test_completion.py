"""Shell completion: each shell's script is shown, and what the shell asks for is answered without Dagster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NO_DETECTION = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
_ASKED = """
import atexit, sys
sys.argv[0] = "morphseq"
from morphseq_dagster.cli import main
heavy = {"dagster", "numpy", "pandas", "cv2"}
atexit.register(lambda: print("HEAVY", sorted(heavy & set(sys.modules)), file=sys.stderr))
sys.exit(main())
"""


def ask(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Call the console script by its name, as a shell does."""
    environment = {**os.environ, **variables}
    command = [sys.executable, "-c", _ASKED, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "complete -o default -F _morphseq_completion morphseq"),
        ("zsh", "#compdef morphseq"),
        ("fish", "complete --command morphseq"),
    ],
)
def test_script_of_each_shell_is_shown(shell: str, line: str) -> None:
    done = ask("--show-completion", shell, **NO_DETECTION)
    assert done.returncode == 0, done.stderr
    assert line in done.stdout
    assert f"_MORPHSEQ_COMPLETE=complete_{shell}" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("typed", "wanted"), [("sta", {"status", "stale"}), ("materialize --pa", {"--partition"}), ("recipe s", {"show"})]
)
def test_words_are_completed_and_nothing_heavy_is_imported(shell: str, typed: str, wanted: set[str]) -> None:
    line = f"morphseq {typed}"
    variables = {
        "_MORPHSEQ_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    done = ask(**variables)
    assert "HEAVY []" in done.stderr
    assert {word for word in wanted if word in done.stdout} == wanted
    assert "explain" not in done.stdout


def test_bash_itself_completes_a_verb() -> None:
    script = ask("--show-completion", "bash", **NO_DETECTION).stdout
    program = f"""
PATH={Path(sys.executable).parent}:$PATH
{script}
COMP_WORDS=(morphseq reco); COMP_CWORD=1
_morphseq_completion morphseq
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["reconcile"]

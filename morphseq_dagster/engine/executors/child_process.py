"""Child processes: what a process that works for another one does first, and how its end is described.

Runners (`runner.py`) and the workers of a pool (`pool_worker.py`) begin here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_THREAD_POOLS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)


def end_with(parent: int) -> None:
    """Die with the parent, however it ends: the step's lock is the parent's, and another may take it then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that asked for this work is gone")


def thread_variables(threads: int) -> dict[str, str]:
    """Variables from which BLAS, OpenMP, torch and OpenCV take the size of their thread pools when they are loaded."""
    return dict.fromkeys(_THREAD_POOLS, str(threads))


def limit_threads(threads: int) -> None:
    """Set the thread pools of this process, of what is loaded and of what will be."""
    os.environ.update(thread_variables(threads))
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def describe_end(code: int) -> str:
    """Say how a process ended, by the exit code that `subprocess` gives: minus a signal's number, or its own."""
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}{' (the usual sign of too little memory)' if name == 'SIGKILL' else ''}"

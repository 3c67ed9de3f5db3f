"""Causes: why a step is stale, held or at work, as values that can be compared, counted, hashed and described.

Which causes apply to a step is decided in `rules.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

CauseKind = Literal[
    "missing",
    "code",
    "recipe",
    "weights",
    "data",
    "key",
    "file_missing",
    "file_changed",
    "discarded",
    "failed",
    "degraded",
    "running",
    "interrupted",
    "pruned",
    "unreadable",
    "waiting",
    "upstream",
    "forced",
    "kept",
]
WEIGHTS: Final = "weights"
"""Registered inputs whose name ends so are weights of a model."""
_SHORT: Final = 12


@dataclass(frozen=True)
class Cause:
    """One reason.

    Parameters
    ----------
    kind
        `missing` no result yet; `code` the step's version; `recipe` a parameter; `weights` a model's file; `data` an
        input; `key` the form of the key; `file_missing`, `file_changed` the published output; `discarded` an edit given
        up; `failed` the last attempt; `degraded` wells that failed for a transient reason; `running` at work;
        `interrupted` cut off; `pruned` bytes removed on purpose and needed again; `unreadable` cannot be judged;
        `waiting` a required input is absent; `upstream` a step before it runs; `forced` asked for; `kept` an edit by
        hand that stands although this changed.
    subject
        Parameter, input, file, wells or steps concerned.
    old, new
        Recorded and present value: hash, version, parameter; None stands for absent.
    detail
        Words of an error, holder of a lock.
    tries
        Attempts made, of `failed` and `degraded`.
    computes
        Whether the step will surely compute for this cause; otherwise its run may find that nothing changed.
    """

    kind: CauseKind
    subject: str = ""
    old: Any = None
    new: Any = None
    detail: str = ""
    tries: int = 0
    computes: bool = True

    def describe(self) -> str:
        """Say the cause in one line."""
        return _WORDS[self.kind](self)

    def encode(self) -> dict[str, Any]:
        """Give the cause as JSON values."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "old": self.old,
            "new": self.new,
            "detail": self.detail,
            "tries": self.tries,
            "text": self.describe(),
        }


def shorten(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Write a value as a person reads it: hashes cut, texts as they are."""
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    is_hash = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return text[:_SHORT] if is_hash else text


def _change(cause: Cause) -> str:
    return f"{shorten(cause.old)} -> {shorten(cause.new)}"


def _data(cause: Cause) -> str:
    word = "changed"
    if cause.old is None:
        word = "appeared"
    elif cause.new is None:
        word = "is gone"
    what = "weights" if cause.kind == "weights" else "input"
    return f"{what} {cause.subject} {word} ({_change(cause)})"


def _failed(cause: Cause) -> str:
    return f"failed{f' {cause.tries} times' if cause.tries > 1 else ''}: {cause.detail}"


_WORDS: Final[Mapping[str, Callable[[Cause], str]]] = {
    "missing": lambda c: "missing" + (f": {c.detail}" if c.detail else ""),
    "code": lambda c: f"version {_change(c)}",
    "recipe": lambda c: f"recipe {c.subject}: {_change(c)}",
    "weights": _data,
    "data": _data,
    "key": lambda _: "the key is formed otherwise",
    "file_missing": lambda c: f"{c.subject} is gone",
    "file_changed": lambda c: f"{c.subject} was changed outside the pipeline",
    "discarded": lambda c: f"{c.subject} was discarded, to be made again",
    "failed": _failed,
    "degraded": lambda c: f"wells to try again: {c.subject}",
    "running": lambda c: f"at work: {c.detail}",
    "interrupted": lambda c: c.detail,
    "pruned": lambda c: f"removed to save space, and needed by {c.subject}",
    "unreadable": lambda c: f"cannot read {c.subject}: {c.detail}",
    "waiting": lambda c: f"waits for the input {c.subject}: {c.detail}",
    "upstream": lambda c: f"after {c.subject}",
    "forced": lambda _: "forced",
    "kept": lambda c: f"edited by hand and kept, although: {c.detail}" if c.detail else "edited by hand and kept",
}

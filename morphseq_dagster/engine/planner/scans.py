"""Scans: the last listings of raw folders and image sets, kept under `.morphseq/scans/`, and when to list again.

This is a cache: without it everything is listed again. A listing is trusted only beside the very record that stood when
it was taken, while it is younger than the caller allows, and never when its time lies ahead of the clock, which may
jump. The hole this leaves: what changes after a trusted listing is seen by the next one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import write_durably

SCHEMA: Final = 2
STATUS_FILES: Final = 50_000
"""Files that `status` lists at most (about half a second); beyond, it uses the last scan and says so."""
STATUS_BYTES: Final = 200 * 2**20
"""Bytes that `status` hashes at most to clear a suspicion."""


@dataclass(frozen=True)
class Listing:
    """Digest of a folder's listing, when it was taken in seconds since 1970, and beside which record."""

    digest: str
    taken_at: float
    beside: str


@dataclass
class Scans:
    """Listings of one call: from the last scan where fresh enough, else taken now.

    Parameters
    ----------
    layout
        Paths of the data root.
    fresh_s
        Age in seconds up to which a stored listing is used as it is; 0 lists everything now.
    budget_files, budget_bytes
        How many files may be listed and bytes hashed in this call; None sets no limit. Beyond, a stored listing of any
        age is used, and where there is none the folder is not looked into.
    now
        Time of the call.
    """

    layout: Layout
    fresh_s: float = 0.0
    budget_files: int | None = None
    budget_bytes: int | None = None
    now: float = field(default_factory=time.time)
    relied: list[str] = field(default_factory=list, init=False)
    """Folders for which an older listing was used."""
    skipped: list[str] = field(default_factory=list, init=False)
    """Folders and files that were not looked into."""

    def __post_init__(self) -> None:
        """Read what the last call left."""
        self._path = scans_path(self.layout)
        self._listings, self._checked = _read(self._path)
        self._new_listings: dict[str, Listing] = {}
        self._new_checked: dict[str, tuple[str, str]] = {}

    def look(self, key: str, *, take: Callable[[], str], beside: str, expected_files: int) -> Listing | None:
        """Give the listing of a folder, from the last scan or taken now; None when neither is to be had.

        Parameters
        ----------
        key
            Name of what is listed.
        take
            Lists it and returns the digest.
        beside
            Which record the listing will be compared with; one that was taken beside another says nothing about it.
        expected_files
            Number of files that listing it will take, for the budget.
        """
        stored = self._new_listings.get(key) or self._listings.get(key)
        usable = stored is not None and stored.beside == beside
        if stored is not None and usable and 0 <= self.now - stored.taken_at <= self.fresh_s:
            return stored
        if self.budget_files is None or self.budget_files >= expected_files:
            if self.budget_files is not None:
                self.budget_files -= expected_files
            listing = Listing(take(), self.now, beside)
            self._new_listings[key] = listing
            return listing
        if usable:
            self.relied.append(key)
            return stored
        self.skipped.append(key)
        return None

    def check(self, path: str, *, fingerprint: str, size: int, judge: Callable[[], str]) -> str | None:
        """Judge a suspicious output by its content, once per fingerprint; None when the budget forbids it.

        Parameters
        ----------
        path
            Output relative to the data root.
        fingerprint
            What the output and its record look like; a judgement holds as long as this does.
        size
            Bytes that judging will read.
        judge
            Reads and judges.
        """
        known = self._new_checked.get(path) or self._checked.get(path)
        if known is not None and known[0] == fingerprint:
            return known[1]
        if self.budget_bytes is not None and self.budget_bytes < size:
            self.skipped.append(path)
            return None
        if self.budget_bytes is not None:
            self.budget_bytes -= size
        verdict = judge()
        self._new_checked[path] = (fingerprint, verdict)
        return verdict

    def save(self) -> None:
        """Keep what was looked at for the next call, unless nothing was; other callers' newer listings stay."""
        if not (self._new_listings or self._new_checked):
            return
        listings, checked = _read(self._path)
        for key, listing in self._new_listings.items():
            held = listings.get(key)
            if held is None or not listing.taken_at < held.taken_at <= self.now:
                listings[key] = listing
        checked |= self._new_checked
        value = {
            "schema": SCHEMA,
            "listings": {key: [entry.digest, entry.taken_at, entry.beside] for key, entry in sorted(listings.items())},
            "checked": {key: list(entry) for key, entry in sorted(checked.items())},
        }
        write_durably(self._path, json.dumps(value, separators=(",", ":")).encode())


def scans_path(layout: Layout) -> Path:
    """File of the last scans."""
    return layout.private / "scans" / "listings.json"


def open_budgeted(layout: Layout) -> Scans:
    """Scans for `status`: few files and bytes, the last scan for the rest."""
    return Scans(layout, budget_files=STATUS_FILES, budget_bytes=STATUS_BYTES)


def _read(path: Path) -> tuple[dict[str, Listing], dict[str, tuple[str, str]]]:
    """Read the cache; one that cannot be understood counts as empty, since everything in it can be looked up again."""
    try:
        value: Any = json.loads(path.read_bytes())
        if value["schema"] != SCHEMA:
            return {}, {}
        listings = {str(k): Listing(str(d), float(t), str(b)) for k, (d, t, b) in value["listings"].items()}
        checked = {str(k): (str(f), str(v)) for k, (f, v) in value["checked"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}
    return listings, checked

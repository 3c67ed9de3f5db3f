"""Definitions: what `dagster dev -w workspace.yaml` and `dagster -m morphseq_dagster.definitions` load.

Everything in them is made in `build.py`. Loading also registers the experiments that lie in the raw folders already.
"""

from __future__ import annotations

import logging

import dagster as dg

from morphseq_dagster.build import build_definitions
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.morphseq.discovery import inspect_folder, list_folders
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.partitions import find_registered, register_keys
from morphseq_dagster.settings.machine import MachineSettings, load_settings

_LOG = logging.getLogger("dagster.morphseq")


def register_found(settings: MachineSettings) -> tuple[str, ...]:
    """Register experiments whose raw folder is there, if the settings say so; return the new ones.

    A failure - no Dagster home, an unreadable disk - is logged and keeps nobody from loading the definitions.
    """
    if not settings.register_partitions:
        return ()
    try:
        with dg.DagsterInstance.get() as instance:
            known = find_registered(instance, pipeline=MORPHSEQ)
            layout = MORPHSEQ.layout(settings.data_root)
            # Registered ones need no look inside, which is what costs on a network disk.
            fresh = [folder for folder in list_folders(layout) if not folder.reason and folder.name not in known]
            found = [inspect_folder(layout, folder) for folder in fresh]
            names = [entry.name for entry in found if entry.state != "refused"]
            return register_keys(instance, names, pipeline=MORPHSEQ)
    except Exception as error:  # noqa: BLE001 - whatever it is, the definitions must load
        _LOG.warning("experiments could not be registered while loading: %s: %s", type(error).__name__, error)
        return ()


_settings = load_settings()
defs = build_definitions(_settings, pipeline=PIPELINE)
register_found(_settings)

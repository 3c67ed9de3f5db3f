"""The section `places.slurm` of the machine settings: one Slurm cluster, and what each step asks of it.

Nothing here imports the cluster's rooms, so that settings can be read where none is used.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, field_validator, model_validator

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.settings.job_values import Environment, Resources, check_path
from morphseq_dagster.settings.ssh_address import SshAddress

SLURM: Final = "slurm"
"""Name of the cluster in settings and records."""
SUSPENSION_VARIABLE: Final = "MORPHSEQ_PARKING"
"""Variable of a process that may leave while its job works: path of its note (`cluster/suspend/state.py`)."""
_CLOSED = ConfigDict(extra="forbid", frozen=True)


class ResourceSettings(BaseModel):
    """What a step's job asks of the cluster; what is not set comes from the wider section."""

    model_config = _CLOSED

    partition: str | None = None
    """Partitions, joined by commas."""
    account: str | None = None
    """Account that pays."""
    qos: str | None = None
    """Quality of service."""
    cpus: int | None = None
    """Processors; the step's thread pools follow."""
    memory: str | None = None
    """Memory of the job, such as 16G."""
    gpus: str | None = None
    """GPUs: a number, or type and number such as a100:1."""
    time: str | None = None
    """Time limit: minutes, HH:MM:SS or D-HH:MM:SS."""
    constraint: str | None = None
    """Features that the node must have."""
    exclude: str | None = None
    """Nodes to keep off."""

    @field_validator("gpus", "time", mode="before")
    @classmethod
    def _accept_numbers(cls, value: object) -> object:
        return str(value) if type(value) is int else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self.over(Resources())
        except PermanentError as error:
            raise ValueError(error.found) from error
        return self

    def over(self, base: Resources) -> Resources:
        """Lay what is set here over wider settings."""
        return replace(base, **self.model_dump(exclude_none=True, include=set(ResourceSettings.model_fields)))


class SlurmStepSettings(ResourceSettings):
    """Resources of one step, and what it allows when a job ends early."""

    more_memory: bool = True
    """Whether a job that ran out of memory is tried once more with twice as much."""
    small: bool | None = None
    """Whether many experiments may share a pilot job for it; unless set, if earlier ones took a minute at most."""


class SlurmExperimentSettings(BaseModel):
    """Resources of one experiment, over those of the steps."""

    model_config = _CLOSED

    resources: ResourceSettings = ResourceSettings()
    """For all its steps."""
    steps: dict[str, ResourceSettings] = Field(default_factory=dict)
    """For single steps."""


class SlurmSettings(BaseModel):
    """One Slurm cluster."""

    model_config = _CLOSED

    transport: Literal["local", "ssh", "dagster_slurm"] = "local"
    """`local` on a submit host itself, `ssh` from anywhere else, or a login described by dagster-slurm's objects."""
    ssh: SshAddress | None = None
    """The login node, for transports ssh and dagster_slurm."""
    resource: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")
    """In place of ssh for transport dagster_slurm: module:attribute of a `SlurmResource`; its queue is the default."""
    commands: str = ""
    """Folder of sbatch and the other commands, if a login shell does not find them."""
    python: str = sys.executable
    """Python of the environment on the nodes."""
    data_root: str = ""
    """The data root as the nodes see it, where that differs."""
    environment: Literal["same", "recorded", "any"] = "same"
    """Packages and code that a job must find: those where it was asked for, those recorded on the cluster, or any."""
    preamble: str | None = None
    """Shell file that a job reads first (modules of the site), as the nodes see it."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Variables of the step on the node."""
    resources: ResourceSettings = ResourceSettings()
    """For all steps."""
    steps: dict[str, SlurmStepSettings] = Field(default_factory=dict)
    """For single steps."""
    experiments: dict[str, SlurmExperimentSettings] = Field(default_factory=dict)
    """For single experiments."""
    max_jobs: int = Field(default=200, ge=1)
    """Most jobs that a run over many experiments has submitted at once."""
    pack_above: int = Field(default=50, ge=0)
    """More experiments than this that are ready for a small step share a pilot job; 0 for never."""
    pack_workers: int = Field(default=8, ge=1, le=1024)
    """Experiments at work at once in a pilot job, which asks for as many times the resources of one."""
    pack_time: str | None = None
    """Time limit of a pilot job; unless set, as long as one may take and twice the expected for the others."""
    chain: bool = False
    """Whether a job of a run over many experiments goes on with the following steps that ask for the same resources."""
    requeue: bool = True
    """Whether the scheduler may start a job again by itself after a node was lost."""
    warn_s: int = Field(default=120, ge=0, le=65535)
    """Seconds before the time limit at which a step gets a signal to stop, at most a quarter of it; 0 for none."""
    grace_s: float = Field(default=60, gt=0)
    """Seconds after which an attempt is given up of which nobody knows whether it was submitted."""
    lost_s: float = Field(default=60, gt=0)
    """Seconds for which nobody knows of a job before it counts as lost."""
    settle_s: float = Field(default=30, ge=0)
    """Seconds that a completed job's result may take to become visible."""
    orphans: Literal["keep", "cancel"] = "keep"
    """Whether jobs whose run failed or was killed are left at work for the next run, or cancelled."""
    orphans_after_s: float = Field(default=1800, ge=0)
    """Seconds after the end of the run for which they are left at work nevertheless."""

    @field_validator("ssh", mode="wrap")
    @classmethod
    def _check_address(cls, value: object, make: ValidatorFunctionWrapHandler) -> object:
        try:
            return make(value)
        except PermanentError as error:
            raise ValueError(error.found) from error

    @field_validator("pack_time", mode="before")
    @classmethod
    def _accept_minutes(cls, value: object) -> object:
        return str(value) if type(value) is int else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = (self.ssh is not None, self.resource is not None)
        taken = {"local": {(False, False)}, "ssh": {(True, False)}, "dagster_slurm": {(True, False), (False, True)}}
        if given not in taken[self.transport]:
            raise ValueError("transport ssh needs the section ssh, dagster_slurm that or a resource, local neither")
        # dagster-slurm never leaves users to the SSH configuration.
        if self.transport == "dagster_slurm" and self.ssh and (not self.ssh.user or "@" not in (self.ssh.jump or "@")):
            raise ValueError("transport dagster_slurm needs ssh.user, and the user of ssh.jump")
        try:
            for path in (self.commands, self.python, self.data_root):
                check_path(path or "/")
            self.surroundings()
            Resources(time=self.pack_time)
        except PermanentError as error:
            raise ValueError(error.found) from error
        return self

    def surroundings(self) -> Environment:
        """Surroundings of every job."""
        return Environment(preamble=self.preamble, variables=self.variables)

    def resources_of(self, step: str, *, experiment: str, base: Resources | None = None) -> Resources:
        """Resources of one step of one experiment, over a base: the narrowest section wins, value by value."""
        special = self.experiments.get(experiment, SlurmExperimentSettings())
        layers = [self.resources, self.steps.get(step), special.resources, special.steps.get(step)]
        found = base or Resources()
        for layer in layers:
            found = layer.over(found) if layer is not None else found
        return found

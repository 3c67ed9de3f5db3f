"""Settings of this machine: where the data lie and where steps run; never anything that changes pixels or numbers.

Read from the environment (`MORPHSEQ_...`), then `.env`, then `morphseq.toml` in the working directory. Science
parameters are recipes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from morphseq_dagster.cluster.job import Environment, Resources, check_path
from morphseq_dagster.cluster.transports.ssh import SshAddress
from morphseq_dagster.errors import PermanentError

PlaceName = Literal["process", "subprocess", "slurm"]
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
    """Whether many experiments of it may share an allocation; unless said, where earlier ones took a minute at most."""


class SlurmExperimentSettings(BaseModel):
    """Resources of one experiment, over those of the steps."""

    model_config = _CLOSED

    resources: ResourceSettings = ResourceSettings()
    """For all its steps."""
    steps: dict[str, ResourceSettings] = Field(default_factory=dict)
    """For single steps."""


class SshSettings(BaseModel):
    """The login node, where the cluster's commands are not programs of this host."""

    model_config = _CLOSED

    host: str
    """Name of the login node, or of its section in the SSH configuration."""
    port: int | None = None
    """Port."""
    user: str | None = None
    """User there."""
    key: str | None = None
    """Private key file; without one the agent and the SSH configuration are asked."""
    known_hosts: str | None = None
    """File of known host keys; unknown or changed keys are refused."""
    jump: str | None = None
    """Host to go through: user@host:port."""

    def address(self) -> SshAddress:
        """Check and convert."""
        return SshAddress(**self.model_dump())

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self.address()
        except PermanentError as error:
            raise ValueError(error.found) from error
        return self


class SlurmSettings(BaseModel):
    """One Slurm cluster."""

    model_config = _CLOSED

    transport: Literal["local", "ssh", "dagster_slurm"] = "local"
    """`local` on a submit host itself, `ssh` from anywhere else, or a login described by dagster-slurm's objects."""
    ssh: SshSettings | None = None
    """The login node, for transports ssh and dagster_slurm."""
    resource: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")
    """In place of ssh for transport dagster_slurm: module:attribute of a `SlurmResource`; its queue is the default."""
    commands: str = ""
    """Folder of sbatch and its kin, where a login shell does not find them."""
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
    """More experiments than this that are ready for a small step share an allocation; 0 never packs."""
    pack_workers: int = Field(default=8, ge=1, le=1024)
    """Experiments at work at once in such an allocation, which asks for as many times the resources of one."""
    pack_time: str | None = None
    """Time limit of such an allocation; unless said, as long as one may take and twice the expected for the others."""
    chain: bool = False
    """Whether a job of a run over many experiments goes on with the following steps that ask for the same resources."""
    requeue: bool = True
    """Whether the scheduler may start a job again by itself after a node was lost."""
    warn_s: int = Field(default=120, ge=0, le=65535)
    """Seconds before the time limit at which a step is told to stop, at most a quarter of it; 0 never tells it."""
    grace_s: float = Field(default=60, gt=0)
    """Seconds after which an attempt is given up whose submission nobody knows of."""
    lost_s: float = Field(default=60, gt=0)
    """Seconds for which nobody knows of a job before it counts as lost."""
    settle_s: float = Field(default=30, ge=0)
    """Seconds for a completed job's result to come into sight."""
    orphans: Literal["keep", "cancel"] = "keep"
    """Whether the reconciler leaves jobs at work whose run failed or was killed, for the next run, or cancels them."""
    orphans_after_s: float = Field(default=1800, ge=0)
    """Seconds after the end of the run for which they are left at work nevertheless."""

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


class PlacesSettings(BaseModel):
    """Where steps run: one entry per step, beside the sections of experiments and clusters."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, PlaceName]

    experiments: dict[str, dict[str, PlaceName]] = Field(default_factory=dict)
    """Place per experiment and step."""
    slurm: SlurmSettings | None = None
    """The cluster."""

    @property
    def steps(self) -> dict[str, PlaceName]:
        """Place per step."""
        return dict(self.__pydantic_extra__)

    @property
    def chained(self) -> bool:
        """Whether jobs of the cluster go on with the steps that follow."""
        return self.slurm is not None and self.slurm.chain


class WeightsSettings(BaseModel):
    """Where the weights of models lie on this machine: a file each, or a folder of several.

    Their content enters results and keys, their place does not. On a cluster the nodes must see them under the same
    path, unless they lie below the data root.
    """

    model_config = _CLOSED

    gdino: Path | None = None
    """Weights of the detector."""
    sam2: Path | None = None
    """Weights of the segmenter."""
    latents: Path | None = None
    """Weights of the latent model."""

    @field_validator("gdino", "sam2", "latents")
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    def named(self) -> dict[str, Path]:
        """Those that are named."""
        return {name: path for name in WeightsSettings.model_fields if (path := getattr(self, name)) is not None}


class MachineSettings(BaseSettings):
    """Settings of one machine."""

    model_config = SettingsConfigDict(
        env_prefix="MORPHSEQ_",
        env_file=".env",
        toml_file="morphseq.toml",
        extra="ignore",
        frozen=True,
    )

    data_root: Path = Field(default=Path("data_root"))
    """Folder of all experiments."""
    place: PlaceName = "process"
    """Where steps run unless `places` says otherwise."""
    places: PlacesSettings = Field(default_factory=lambda: PlacesSettings.model_validate({}))
    """Place per step, and the cluster."""
    cpus: int | None = Field(default=None, ge=1, le=4096)
    """Processors for the wells of a step on this machine; without it well after well. A cluster's jobs have theirs."""
    weights: WeightsSettings = WeightsSettings()
    """Where the weights of models lie."""
    register_partitions: bool = False
    """Whether loading the definitions registers experiments whose raw folder is there."""
    report_every_s: int = Field(default=120, ge=5)
    """Seconds between two reports of staleness to the web page."""

    @field_validator("data_root")
    @classmethod
    def _make_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, environment, `.env`, `morphseq.toml`."""
        del file_secret_settings
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls)

    def place_of(self, step: str, *, experiment: str = "") -> PlaceName:
        """Place of one step of one experiment."""
        special = self.places.experiments.get(experiment, {})
        return special.get(step, self.places.steps.get(step, self.place))

    @model_validator(mode="after")
    def _check_cluster(self) -> Self:
        used = {
            self.place,
            *self.places.steps.values(),
            *(p for e in self.places.experiments.values() for p in e.values()),
        }
        if "slurm" in used and self.places.slurm is None:
            raise ValueError("a step runs at slurm, but there is no section places.slurm")
        return self


def load_settings(*, data_root: Path | None = None) -> MachineSettings:
    """Load the settings; an explicit data root wins over every other source.

    Raises
    ------
    PermanentError
        Naming every wrong setting at once.
    """
    try:
        return MachineSettings() if data_root is None else MachineSettings(data_root=data_root)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()]
        raise PermanentError(
            expected="machine settings with known values",
            found="; ".join(problems),
            where="environment MORPHSEQ_*, .env, morphseq.toml",
            remedy="correct the named settings",
        ) from error

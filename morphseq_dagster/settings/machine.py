"""Settings of this machine: where the data lie and where steps run; never anything that changes pixels or numbers.

Read from the environment (`MORPHSEQ_...`), then `.env`, then `morphseq.toml` in the working directory. Science
parameters are recipes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.settings.slurm import SlurmSettings

PlaceName = Literal["process", "subprocess", "slurm"]
_CLOSED = ConfigDict(extra="forbid", frozen=True)


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

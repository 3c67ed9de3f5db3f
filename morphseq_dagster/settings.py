"""Settings of this machine: where the data lie and where steps run; never anything that changes pixels or numbers.

Read from the environment (`MORPHSEQ_...`), then `.env`, then `morphseq.toml` in the working directory. Science
parameters are recipes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from morphseq_dagster.errors import PermanentError

PlaceName = Literal["process", "subprocess"]


class MachineSettings(BaseSettings):
    """Settings of one machine."""

    model_config = SettingsConfigDict(
        env_prefix="MORPHSEQ_",
        env_file=".env",
        toml_file="morphseq.toml",
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    data_root: Path = Field(default=Path("data_root"))
    """Folder of all experiments."""
    place: PlaceName = "process"
    """Where steps run unless `places` says otherwise."""
    places: dict[str, PlaceName] = Field(default_factory=dict)
    """Place per step."""
    register_partitions: bool = False
    """Whether loading the definitions registers experiments whose raw folder is there."""
    threads: int = Field(default=0, ge=0)
    """Threads of OpenCV per process; 0 leaves the choice to OpenCV."""

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

    def place_of(self, step: str) -> PlaceName:
        """Place of one step."""
        return self.places.get(step, self.place)


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

"""The settings that edges and workers share: environment variables `TOKENRELAY_*`, checked at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tokenrelay.protocol.models import catalogue

CATALOGUE: Final = Path(catalogue.__file__).with_name("catalogue.toml")
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")


class Shared(BaseSettings):
    """One field a variable; the description is the text of the table in docs/configuration.md."""

    model_config = SettingsConfigDict(env_prefix="TOKENRELAY_", frozen=True, populate_by_name=True)

    redis_url: str = Field("redis://127.0.0.1:6379/0", repr=False, description="where edges and workers meet")
    catalogue: Path = Field(CATALOGUE, description="path of the model catalogue")
    retention_s: int = Field(3_600, ge=1, description="how long a stream can be read after its last event")
    log_level: str = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`")
    log_format: Literal["json", "console"] = Field("json", description="`json`, or `console` for a person to read")

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in _LEVELS:
            raise ValueError(f"expected DEBUG, INFO, WARNING or ERROR, got {value!r}")
        return value.upper()

    @property
    def retention_ms(self) -> int:
        return self.retention_s * 1000

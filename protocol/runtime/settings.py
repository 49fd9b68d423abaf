"""The settings that edges and workers share: environment variables `TOKENRELAY_*`, checked at the start."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal, Self

import structlog
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tokenrelay.protocol.models import catalogue
from tokenrelay.protocol.runtime.address import Tls
from tokenrelay.protocol.runtime.redis import check_address
from tokenrelay.protocol.store import partitions

CATALOGUE: Final = Path(catalogue.__file__).with_name("catalogue.toml")
PREFIX: Final = "TOKENRELAY_"
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

_NAMES: Final = """
REDIS_URL REDIS_CA REDIS_CERT REDIS_KEY REDIS_PARTITIONS CATALOGUE RETENTION_S LOG_LEVEL LOG_FORMAT SHED_LAG_MS
HOST PORT API_KEYS KEYS_FILE JWT_SECRET JWKS_FILE JWT_ISSUER JWT_AUDIENCE TICKET_ROTATE_S ALLOWED_ORIGINS
TRUSTED_PROXIES MAX_QUEUE MAX_QUEUE_BYTES KEY_QUEUE_SHARE KEY_CONCURRENCY KEY_RATE QUEUE_TIMEOUT_S SEND_TIMEOUT_S
OFFER_MEMORY_S DRAIN_S MAX_CONNECTION_AGE_S ROTATE_S MAX_BODY_BYTES READ_TIMEOUT_S MAX_CONNECTIONS KEY_CONNECTIONS
MESSAGE_RATE MAX_OUTPUT_TOKENS HEARTBEAT_S FRONT_GRACE_S LOG_REFUSALS MAX_PARTS MAX_PART_BYTES MAX_PARTS_BYTES
MAX_PARTS_STORED_BYTES MAX_LARGE_BODIES WEBHOOK_URL WEBHOOK_SECRET
SCRIPTED LOCAL WARM OPENAI_BASE_URL ANTHROPIC_BASE_URL GEMINI_BASE_URL METRICS_HOST METRICS_PORT MAX_JOBS
CONNECT_TIMEOUT_S FIRST_TOKEN_TIMEOUT_S FIRST_TOKEN_BUDGET_S MAX_ATTEMPTS BETWEEN_TOKENS_TIMEOUT_S
GENERATION_TIMEOUT_S FINISH_S TOOL_TIMEOUT_S MCP_SERVERS BUFFER_BYTES HANDLERS_REQUIRED HANDLER_THREADS
URL KEY API_KEY SCREENSHOTS TEST_CLUSTER
"""
KNOWN: Final = frozenset(PREFIX + name for name in _NAMES.split())
"""What edges, workers, clients and tests read: one environment often serves them all. Tests hold it complete."""

log = structlog.get_logger()


class Shared(BaseSettings):
    """One field a variable; the description is the text of the table in docs/configuration.md. An empty variable
    counts as not set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, populate_by_name=True, env_ignore_empty=True,
        allow_inf_nan=False, hide_input_in_errors=True,
    )  # fmt: skip

    redis_url: str = Field("redis://127.0.0.1:6379/0", repr=False, description="where edges and workers meet")
    redis_ca: Path | None = Field(
        None, description="`rediss://`: certificates that vouch for Redis's; none: those that the system trusts"
    )
    redis_cert: Path | None = Field(None, description="`rediss://`: our own certificate, where Redis asks for one")
    redis_key: Path | None = Field(None, description="`rediss://`: the private key of that certificate")
    redis_partitions: int = Field(
        256,
        ge=1,
        le=partitions.MOST,
        description="`redis+cluster://`: parts that streams are spread over, a power of two; the same for "
        "all processes",
    )
    catalogue: Path = Field(CATALOGUE, description="path of the model catalogue")
    shed_lag_ms: int = Field(
        200,
        ge=0,
        description="an event loop (edge or worker) that has been later than this for 2 s is overloaded: new streams "
        "are refused with `OVERLOADED`; 0: off",
    )
    retention_s: int = Field(3_600, ge=1, description="how long a stream can be read after its last event")
    log_level: str = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`")
    log_format: Literal["json", "console"] = Field("json", description="`json`, or `console` for a person to read")

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in _LEVELS:
            raise ValueError(f"expected DEBUG, INFO, WARNING or ERROR, got {value!r}")
        return value.upper()

    @field_validator("redis_partitions")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        partitions.tags(value)
        return value

    @model_validator(mode="after")
    def _usable_redis(self) -> Self:
        check_address(self.redis_url, self.redis_tls)
        return self

    @property
    def redis_tls(self) -> Tls:
        return Tls(*(None if path is None else str(path) for path in (self.redis_ca, self.redis_cert, self.redis_key)))

    @property
    def retention_ms(self) -> int:
        return self.retention_s * 1000


def faults(error: ValidationError) -> list[str]:
    """A line for each setting that cannot be used: its name and why, never its value."""
    lines = []
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        name = "_".join(map(str, fault["loc"])).upper()
        is_whole = name.startswith(PREFIX) or name.endswith("_API_KEY")
        text = fault["msg"].removeprefix("Value error, ")
        lines.append(text if not name else f"{name if is_whole else PREFIX + name}: {text}")
    return lines


def unknown(names: Iterable[str]) -> list[tuple[str, str | None]]:
    """Variables that begin like ours and that nobody reads, each with the nearest that somebody does."""
    found = []
    for name in sorted(names):
        upper = name.upper()
        if upper.startswith(PREFIX) and upper not in KNOWN:
            nearest = difflib.get_close_matches(upper.removeprefix(PREFIX), [each[len(PREFIX) :] for each in KNOWN], 1)
            found.append((name, PREFIX + nearest[0] if nearest else None))
    return found


def warn_of_unknown(environment: Iterable[str]) -> None:
    for name, nearest in unknown(environment):
        fields: dict[str, Any] = {} if nearest is None else {"did_you_mean": nearest}
        log.warning("unknown_setting", name=name, **fields)

"""What an operator can set on a worker: environment variables `TOKENRELAY_*`, valid or refused at the start."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from tokenrelay.protocol.runtime.settings import Shared
from tokenrelay.workers.tools import servers


class Settings(Shared):
    """Those of a worker."""

    scripted: bool = Field(False, description="1 offers the scripted model; on in `make run`")
    local: bool = Field(True, description="0 does not offer the bundled local model")
    warm: bool = Field(False, description="1 loads the local model at the start, not at first use; on in `make run`")
    openai_api_key: SecretStr = Field(
        SecretStr(""), validation_alias="OPENAI_API_KEY", description="offers OpenAI's models"
    )
    anthropic_api_key: SecretStr = Field(
        SecretStr(""), validation_alias="ANTHROPIC_API_KEY", description="offers Anthropic's models"
    )
    gemini_api_key: SecretStr = Field(
        SecretStr(""), validation_alias="GEMINI_API_KEY", description="offers Google's models"
    )
    openai_base_url: str = Field("https://api.openai.com/v1", description="as OpenAI's own SDK takes it")
    anthropic_base_url: str = Field("https://api.anthropic.com", description="as Anthropic's own SDK takes it")
    gemini_base_url: str = Field(
        "https://generativelanguage.googleapis.com", description="as Google's own SDK takes it"
    )
    metrics_host: str = Field("127.0.0.1", description="address of a worker's `GET /metrics`, which asks for no key")
    metrics_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="port of a worker's `GET /metrics`, shared by its `--processes`; 0: none",
    )
    handler_threads: int = Field(
        64,
        ge=1,
        le=10_000,
        description="handlers that are plain functions or generators and run at once, each in a thread; others wait",
    )
    handlers_required: bool = Field(
        True,
        description="0: a handler that cannot be imported makes its row unavailable, where it ends the worker else; "
        "off in `tokenrelay up`",
    )
    max_jobs: int = Field(500, ge=1, description="generations one worker process runs at once")
    connect_timeout_s: float = Field(
        10, gt=0, description="time to connect to a provider; then the call fails with `TIMEOUT`"
    )
    first_token_timeout_s: float = Field(
        120, gt=0, description="time to a model's first token; then the call fails with `TIMEOUT`"
    )
    first_token_budget_s: float = Field(
        180,
        gt=0,
        description="time for all attempts together until a model begins to answer, waits included",
    )
    max_attempts: int = Field(
        5,
        ge=1,
        le=20,
        description="calls of models that may fail before an answer fails; 1: no retry",
    )
    between_tokens_timeout_s: float = Field(
        60, gt=0, description="longest silence of a model in mid-answer; then the answer ends with `TIMEOUT`"
    )
    generation_timeout_s: float = Field(900, gt=0, description="the longest an answer may take")
    finish_s: float = Field(
        25,
        ge=0,
        description="SIGTERM: how long a worker lets its generations finish before it requeues or ends them",
    )
    tool_timeout_s: float = Field(30, gt=0, description="time limit of one tool call")
    mcp_servers: str = Field(
        "",
        description="path of a JSON or TOML file of MCP servers whose tools are offered (`workers/tools/servers.py`)",
    )
    buffer_bytes: int = Field(
        4_194_304,
        ge=65_536,
        description="bytes one generation may buffer while Redis is away; then its model waits",
    )

    @field_validator("mcp_servers")
    @classmethod
    def _readable_servers(cls, value: str) -> str:
        try:
            servers.load(value)
        except OSError as error:
            raise ValueError(f"{value}: {error.strerror}") from error
        return value

"""A client for Python: `Client` reads answers with `await`, `SyncClient` without, `terminal` shows them to a person.

>>> async with Client("http://127.0.0.1:8000") as client:          # doctest: +SKIP
...     async for event_id, data in client.chat("hello"):
...         print(data["token"], end="")
"""

from typing import Final

from tokenrelay_client.client import Client
from tokenrelay_client.errors import Failed, Refused, TokenrelayError, Unreachable
from tokenrelay_client.events import (
    Accepted,
    Completion,
    Data,
    Error,
    Event,
    Started,
    Thinking,
    Token,
    ToolArguments,
    ToolCall,
    ToolResult,
    TypedEvent,
    Unknown,
)
from tokenrelay_client.options import Options
from tokenrelay_client.progress import State
from tokenrelay_client.stream import Stream
from tokenrelay_client.sync import SyncClient, SyncStream
from tokenrelay_client.transport import Choice, TransportName

__all__ = [
    "Accepted", "Choice", "Client", "Completion", "Data", "Error", "Event", "Failed", "Options", "Refused", "Started",
    "State", "Stream", "SyncClient", "SyncStream", "Thinking", "Token", "TokenrelayError", "ToolArguments", "ToolCall",
    "ToolResult", "TransportName", "TypedEvent", "Unknown", "Unreachable",
]  # fmt: skip

__version__: Final = "0.2.0"

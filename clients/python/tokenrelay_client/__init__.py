"""A client for Python: `Client` reads answers with `await`, `SyncClient` without, `terminal` shows them to a person.

>>> async with Client("http://127.0.0.1:8000") as client:          # doctest: +SKIP
...     async for event_id, data in client.chat("hello"):
...         print(data["token"], end="")
"""

from typing import Final

from tokenrelay_client.answer import Event
from tokenrelay_client.client import Client
from tokenrelay_client.errors import Failed, Refused, TokenrelayError, Unreachable
from tokenrelay_client.stream import State, Stream
from tokenrelay_client.sync import SyncClient, SyncStream
from tokenrelay_client.transport import Choice, TransportName

__all__ = [
    "Choice", "Client", "Event", "Failed", "Refused", "State", "Stream", "SyncClient", "SyncStream", "TokenrelayError",
    "TransportName", "Unreachable",
]  # fmt: skip

__version__: Final = "0.2.0"

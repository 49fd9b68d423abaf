"""A client for Python: `Client` reads answers with `await`, `SyncClient` without, `terminal` shows them to a person.

>>> async with Client("http://127.0.0.1:8000") as client:          # doctest: +SKIP
...     async for event_id, data in client.chat("hello"):
...         print(data["token"], end="")
"""

from clients.python.answer import Event
from clients.python.client import Client
from clients.python.errors import Failed, Refused, TokenrelayError, Unreachable
from clients.python.stream import State, Stream
from clients.python.sync import SyncClient, SyncStream
from clients.python.transport import Choice, TransportName

__all__ = [
    "Choice", "Client", "Event", "Failed", "Refused", "State", "Stream", "SyncClient", "SyncStream", "TokenrelayError",
    "TransportName", "Unreachable",
]  # fmt: skip

"""A client for Python: `stream` reads answers, `terminal` shows them to a person.

>>> async with Client("http://127.0.0.1:8000") as client:          # doctest: +SKIP
...     async for event_id, data in client.chat({"message": "hello"}):
...         print(data["token"], end="")
"""

from clients.python.stream import Client, Event, Refused, Stream, Unreachable

__all__ = ["Client", "Event", "Refused", "Stream", "Unreachable"]

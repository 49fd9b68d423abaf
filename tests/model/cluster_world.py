"""A cluster as the machine sees it: one partition of streams, two owners, what is one for all, each in a slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.cluster.servers import Servers
from tests.model.faults import Fault
from tests.model.world import World
from tokenrelay.protocol.store import keys, partitions
from tokenrelay.protocol.store.scripts import Argument, Script

TAG = partitions.tags(2)[1]


class ClusterWorld(World):
    names = keys.CLUSTER
    all_parts = f"tr:{{{TAG}}}:*:part:*"

    def __init__(self, servers: Servers, fault: Fault | None = None) -> None:
        self._servers = servers
        self._clients: dict[str, Any] = {}  # by the tags of their slots, once asked for
        super().__init__(self._client(TAG), fault)

    def name(self, name: str) -> str:
        return keys.within(TAG, name)

    def arq_job(self, stream_id: str) -> str:
        return keys.log(stream_id).removesuffix("log") + "job"

    def stream_id(self, number: int) -> str:
        return f"{TAG}-{number:032x}"

    def run(self, script: Script, arguments: Sequence[Argument], tag: str | None = None) -> Any:
        tag = tag or (partitions.tag_in(str(arguments[2])) if arguments[1] else TAG)
        given = script.in_cluster(arguments, tag)
        return self._run(self._client(tag), script.cluster_text, script, given)

    def ask(self, *commands: Sequence[Any]) -> list[Any]:
        tags = [partitions.tag_in(command[1]) for command in commands] or [TAG]
        replies: list[Any] = [None] * len(commands)
        windows = []
        for tag in dict.fromkeys(tags):
            places = [at for at, each in enumerate(tags[: len(commands)]) if each == tag]
            for at, reply in zip(places, self._ask(self._client(tag), [commands[at] for at in places]), strict=True):
                replies[at] = reply
            windows.append(self.at)
        self.at = min(first for first, _ in windows), max(last for _, last in windows)
        return replies

    def _empty(self) -> None:
        self._servers.flush()

    def _subscribe(self, channel: str) -> None:
        self._ear.ssubscribe(channel)

    def _client(self, tag: str) -> Any:
        if tag not in self._clients:
            self._clients[tag] = self._servers.owner_of(partitions.slot(tag)).client
        return self._clients[tag]

"""A client of each kind against a real fleet; all of them by `make conformance`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance import environments, runner
from tests.conformance.environments import Client
from tests.needs import require

SUBSET = environments.clients(subset=True)


@pytest.fixture(scope="module")
def stack() -> Iterator[runner.Stack]:
    require(any(map(environments.is_installed, SUBSET)), "clients of `make conformance-clients`")
    with runner.stack() as made:
        yield made


@pytest.mark.parametrize("client", SUBSET, ids=[client.name for client in SUBSET])
def test_an_official_client_works_unmodified(stack: runner.Stack, client: Client) -> None:
    require(environments.is_installed(client), f"{client.packages[0]} of `make conformance-clients`")
    outcome = stack.run(client)
    assert not runner.failures({client.name: outcome})
    assert {"text", "usage", "errors before", "drain"} <= outcome.keys()

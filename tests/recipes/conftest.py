"""One fleet for every recipe: two edges with a key, one worker; and nginx in front of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.fleet import Fleet
from tests.needs import require
from tests.network import Proxy
from tests.recipes.nginx import Nginx, find_nginx
from tests.recipes.run import KEY
from tokenrelay.loadtest.fleet import free_port


@pytest.fixture(scope="session")
def site_port() -> int:
    """Where the server of the recipes' pages will listen: edges have to know that origin when they start."""
    return free_port()


@pytest.fixture(scope="session")
def fleet(site_port: int) -> Iterator[Fleet]:
    env = {
        "TOKENRELAY_API_KEYS": f"me:{KEY}",
        "TOKENRELAY_ALLOWED_ORIGINS": f"http://127.0.0.1:{site_port}",
        "TOKENRELAY_DRAIN_S": "20",  # a drain that ends when a test says so: nobody waits for it
    }
    with Fleet(edges=2, workers=1, env=env) as started:
        yield started


@pytest.fixture
def network(fleet: Fleet) -> Iterator[Proxy]:
    """What stands between a recipe and its edge, to be cut."""
    with Proxy(fleet.ports[0]) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def nginx_is_here() -> None:
    require(find_nginx(), "nginx (Debian: nginx-light)")


@pytest.fixture(scope="session")
def nginx(nginx_is_here: None, fleet: Fleet) -> Iterator[Nginx]:
    with Nginx(fleet.urls) as proxy:
        yield proxy
        # That edges died is told as well; that it wrote an answer to disk would mean that it held one back.
        assert not re.search(r"\[(emerg|alert|crit)\]|upstream response is buffered", proxy.complaints())

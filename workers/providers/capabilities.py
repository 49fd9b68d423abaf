"""What a model takes of a request, by the row of the catalogue that its upstream id means. Asks nobody."""

from __future__ import annotations

from collections.abc import Callable

from tokenrelay.protocol.models.catalogue import Catalogue, Model
from tokenrelay.workers.providers.base import Accepts


def capabilities(catalogue: Catalogue, source: str) -> Callable[[str], Accepts]:
    """What a model of this source takes, by its upstream id.

    One that is passed through by its prefix gets the row's word on parameters, which leaves out rather too much than
    too little; but whether it thinks nobody has said, and one that does not refuses to be asked for its thoughts.
    """
    rows = {row.upstream: row for row in catalogue.models if row.source == source}
    prefixes = [(prefix, row) for row in rows.values() for prefix in row.prefixes]

    def of(upstream: str) -> Accepts:
        row = rows.get(upstream)
        if row is not None:
            return _accepts(row, thinks=row.thinks)
        passed = next((row for prefix, row in prefixes if upstream.startswith(prefix)), None)
        return Accepts() if passed is None else _accepts(passed, thinks=False)

    return of


def _accepts(row: Model, *, thinks: bool) -> Accepts:
    return Accepts(
        temperature="temperature" in row.accepts,
        top_p="top_p" in row.accepts,
        stop="stop" in row.accepts,
        seed="seed" in row.accepts,
        tools="tools" in row.accepts,
        token_limit_field=row.token_limit_field,
        thinks=thinks,
        images="images" in row.accepts,
        files="files" in row.accepts,
        audio="audio" in row.accepts,
        efforts=row.efforts,
        extra=row.extra,
        api_version=row.api_version,
        max_output=row.max_output,
    )

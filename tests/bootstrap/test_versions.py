"""One version for three packages, and a tag that says the same."""

from __future__ import annotations

import pytest

from bootstrap.versions import trouble, versions
from tokenrelay import __version__

SAME = {"tokenrelay": "0.2.0", "tokenrelay-client": "0.2.0", "@tokenrelay/client": "0.2.0"}


def test_the_packages_of_this_tree_have_one_version() -> None:
    assert set(versions().values()) == {__version__}
    assert versions().keys() == SAME.keys()


@pytest.mark.parametrize(
    ("found", "tag", "said"),
    [
        (SAME, None, None),
        (SAME, "v0.2.0", None),
        (SAME, "v0.2.1", "the tag is v0.2.1"),
        (SAME, "0.2.0", "the tag is 0.2.0"),
        (SAME | {"@tokenrelay/client": "0.1.0"}, None, "different versions"),
        (SAME | {"@tokenrelay/client": "0.1.0"}, "v0.2.0", "different versions"),
    ],
)
def test_a_tag_is_published_only_as_the_version_of_all_three(
    found: dict[str, str], tag: str | None, said: str | None
) -> None:
    wrong = trouble(found, tag)
    assert wrong is None if said is None else said in (wrong or "")

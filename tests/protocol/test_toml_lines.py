"""Lines of a TOML text: every kind of place has one, and a catalogue's faults name theirs."""

from __future__ import annotations

import pytest

from tokenrelay.protocol.models import catalogue
from tokenrelay.protocol.models.toml_lines import Lines, Path, steps

TEXT = '''# a comment
title = "x"

[[model]]
id = "a"
names = [
  "one",
  "two",
]
traits.quality = 3

[[model]]  # another
id = "b"
text = """
id = "not a key"
[[model]]
"""
"quoted key" = 1
price = { input = 1 }

[model.extra]
x = 1

[routing.length]
short = 1

[[routing.sign]]
kind = "code"
[[routing.sign]]
kind = "maths"
'''

PLACES: list[tuple[Path, int]] = [
    (("title",), 2), (("model", 0), 4), (("model", 0, "id"), 5), (("model", 0, "names"), 6),
    (("model", 0, "names", 1), 6), (("model", 0, "traits", "quality"), 10), (("model", 1), 12),
    (("model", 1, "id"), 13),
    (("model", 1, "quoted key"), 18), (("model", 1, "price", "input"), 19), (("model", 1, "extra", "x"), 22),
    (("model", 1, "missing"), 12), (("routing", "length", "short"), 25), (("routing", "sign", 0, "kind"), 28),
    (("routing", "sign", 1, "kind"), 30), (("nothing",), 1),
]  # fmt: skip


@pytest.mark.parametrize(("path", "line"), PLACES)
def test_a_value_has_a_line(path: Path, line: int) -> None:
    assert Lines(TEXT).of(path) == line


def test_a_string_in_a_long_list_has_its_own() -> None:
    assert Lines(TEXT).of(("model", 0, "names"), "two") == 8
    assert Lines(TEXT).of(("model", 0, "names"), "three") == 6


def test_a_path_is_taken_apart() -> None:
    assert steps("model[2].traits.quality") == ("model", 2, "traits", "quality")


ROW = '[[model]]\nid = "a"\nprovider = "P"\ndialect = "local"\nupstream = "up-a"\n'
OTHER = ROW.replace('"a"', '"b"').replace("up-a", "up-b")

SERVER = '[servers.x]\nbase_url = "http://h:1/v1"\n'
FAULTS: list[tuple[str, str, int, str]] = [
    ("a broken line", ROW + "names = [\n", 6, "not TOML"),
    ("a broken header", ROW + "\n[[model]\n", 7, "not TOML"),
    ("a dialect", ROW.replace("local", "klingon"), 4, "'klingon' - at model[0].dialect"),
    ("the old dialect", ROW + OTHER.replace("local", "openai"), 9, "'openai' - at model[1].dialect"),
    ("a grade", ROW + "traits = { quality = 6 }\n", 6, "<= 5 - at model[0].traits.quality"),
    ("a strength", ROW + '\n[model.traits]\nspeed = 1\nstrengths = ["sports"]\n', 9, "'sports'"),
    ("a price", ROW + OTHER + "price.input = -1\n", 11, ">= 0.0 - at model[1].price.input"),
    ("what it accepts", ROW + 'accepts = ["tools", "top_k"]\n', 6, "'top_k' - at model[0].accepts[1]"),
    ("a rank", ROW + "auto = 1\n", 6, "Expected `bool`"),
    ("an unknown key", ROW + OTHER + "\n\ncolour = 1\n", 13, "unknown field `colour`"),
    ("an unknown section", ROW + "[colours]\n", 6, "unknown field `colours`"),
    ("a missing key", ROW + '[[model]]\nid = "b"\n', 6, "missing required field `provider`"),
    ("a name twice", ROW + OTHER + 'names = [\n  "n",\n  "UP-A",\n]\n', 13, "'UP-A' of model 'b' is taken by 'a'"),
    ("an id twice", ROW + ROW, 7, "'a' of model 'a' is taken by 'a'"),
    ("a strategy", ROW + '[routing]\nstrategy = "best"\n', 7, "'best'"),
    ("a weight", ROW + "[routing.strategies]\nspeed = { quality = -1 }\n", 7, ">= 0.0"),
    ("a hint", ROW + '[routing.hints]\ncode = "coding"\n', 7, "'coding'"),
    ("a server's address", '[servers.x]\nbase_url = "h:1"\n' + ROW, 2, "at servers.x.base_url"),
    ("a server without one", "[servers.x]\n" + ROW, 1, "missing required field `base_url` - at servers.x"),
    ("a server's dialect", SERVER + 'dialect = "local"\n' + ROW, 3, "'local' - at servers.x.dialect"),
    ("a server's key", SERVER + 'key_env = "my key"\n' + ROW, 3, "at servers.x.key_env"),
    ("a field of a server", SERVER + 'api_key = "sk-1"\n' + ROW, 3, "unknown field `api_key`"),
    ("a server's name", SERVER + '[servers."x y"]\n' + ROW, 3, "letters, digits, _ and -"),
    ("a dialect as a server's name", SERVER + "[servers.local]\n" + ROW, 3, "a dialect's name"),
    ("servers that are none", "servers = 1\n" + ROW, 1, "expected tables [servers.NAME]"),
    ("a server that is not there", SERVER + ROW + 'server = "y"\n', 8, "there is no [servers.y]"),
    ("a server of another dialect", SERVER + ROW + 'server = "x"\n', 6, "[servers.x] speaks chat_completions"),
    ("no server", ROW.replace('"local"', '"chat_completions"'), 4, "names its server"),
    ("its provider's upstream", SERVER + ROW + OTHER.replace("up-b", "up-a"), 12, "'up-a' of model 'b' is taken"),
    ("a sign", ROW + '[[routing.sign]]\nkind = "code"\n[[routing.sign]]\nkind = "maths"\npatterns = ["("]\n', 8,
     "'(' is not a regular expression"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "words"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_what_is_wrong_in_a_catalogue_is_named_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        catalogue.parse(text)
    said = str(caught.value)
    assert said.startswith((f"line {line}:", f"line {line},")), said
    assert words in said

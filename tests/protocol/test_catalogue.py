"""The names a model answers to; the file that says so, and what is wrong with it."""

from __future__ import annotations

from functools import cache

import pytest

from tests.protocol.cases import PROTOCOL
from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.models import catalogue
from tokenrelay.protocol.models.catalogue import Catalogue, Model


@cache
def ours() -> Catalogue:
    return catalogue.parse((PROTOCOL / "models" / "catalogue.toml").read_text(encoding="utf-8"))


NAMES: list[tuple[str, str, str]] = [
    # name, provider, what answers
    ("GPT-4 Turbo", "OpenAI", "gpt-6.2-sol"),
    ("GPT-3.5 Turbo", "OpenAI", "gpt-6-luna"),
    ("Claude 3 Opus", "Anthropic", "claude-opus-5-5"),
    ("Claude 3 Sonnet", "Anthropic", "claude-sonnet-5-5"),
    ("Claude 3 Haiku", "Anthropic", "claude-haiku-5-5"),
    ("Gemini 1.5 Pro", "Google", "gemini-4-argon"),
    ("gpt-4-turbo", "OpenAI", "gpt-6.2-sol"),
    ("gpt-3.5-turbo", "OpenAI", "gpt-6-luna"),
    ("claude-3-opus", "Anthropic", "claude-opus-5-5"),
    ("claude-3-sonnet", "Anthropic", "claude-sonnet-5-5"),
    ("claude-3-haiku", "Anthropic", "claude-haiku-5-5"),
    ("gemini-1.5-pro", "Google", "gemini-4-argon"),
    ("claude", "Anthropic", "claude-sonnet-5-5"),
    ("anthropic", "Anthropic", "claude-sonnet-5-5"),
    ("openai", "OpenAI", "gpt-6.2-sol"),
    ("gemini", "Google", "gemini-3.8-flash"),
    ("google", "Google", "gemini-3.8-flash"),
    ("local", "Local", "SmolLM2-135M-Instruct"),
    ("scripted", "Scripted", "scripted"),
]


@pytest.mark.parametrize(("name", "provider", "upstream"), NAMES)
def test_a_name_means_its_model_in_any_case(name: str, provider: str, upstream: str) -> None:
    for spelled in (name, name.lower(), name.upper(), name.title(), name.swapcase()):
        choice = ours().find(spelled)
        assert (choice.model.provider, choice.upstream, choice.is_routed) == (provider, upstream, False)
        assert not ours().is_auto(spelled)


@pytest.mark.parametrize("name", ["neuroswitch", "NeuroSwitch/Mix", "NEUROSWITCH MIX", "neuroswitch-mix", None])
def test_neuroswitch_chooses_where_it_is_named_or_nobody_is(name: str | None) -> None:
    assert ours().is_auto(name)
    choices = ours().choices(name, None)
    assert choices
    assert all(choice.is_routed for choice in choices)


@pytest.mark.parametrize(
    ("upstream", "provider"),
    [("gpt-9-nova", "OpenAI"), ("o3-mini", "OpenAI"), ("claude-next", "Anthropic"), ("gemini-9", "Google")],
)
def test_an_exact_upstream_id_is_passed_through(upstream: str, provider: str) -> None:
    choice = ours().find(upstream)
    assert (choice.upstream, choice.model.provider) == (upstream, provider)


def test_a_scripted_name_keeps_its_script_to_itself() -> None:
    assert ours().find("Scripted?tokens=5").model.id == "scripted"


@pytest.mark.parametrize("name", ["", "gpt", "claude 9", "x" * 200])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(TokenrelayError) as caught:
        ours().find(name)
    assert caught.value.fields["field"] == "model"
    assert "GET /api/models" in caught.value.message


CHOICES: list[tuple[str | None, str | None, list[str]]] = [
    ("claude", None, ["claude-sonnet-5-5"]),
    ("claude", "ANTHROPIC", ["claude-sonnet-5-5"]),
    (None, "openai", ["gpt-6.2-sol", "gpt-6-luna"]),
    ("neuroswitch", "Google", ["gemini-4-argon", "gemini-3.8-flash"]),
    (None, "gemini", ["gemini-3.8-flash"]),
    (None, "claude", ["claude-sonnet-5-5"]),
]


@pytest.mark.parametrize(("name", "provider", "upstreams"), CHOICES)
def test_a_provider_narrows_the_choice(name: str | None, provider: str | None, upstreams: list[str]) -> None:
    choices = ours().choices(name, provider)
    assert {choice.upstream for choice in choices} >= set(upstreams)
    assert len({choice.model.provider for choice in choices}) == 1
    assert not any(choice.is_routed for choice in choices)


@pytest.mark.parametrize(
    ("name", "provider", "words"),
    [("claude", "openai", "a model of Anthropic, not of 'openai'"), (None, "acme", "no provider is called 'acme'")],
)
def test_a_provider_that_does_not_fit_is_refused(name: str | None, provider: str, words: str) -> None:
    with pytest.raises(TokenrelayError, match=words) as caught:
        ours().choices(name, provider)
    assert caught.value.fields["field"] == "provider"


def test_neuroswitch_chooses_among_the_rows_that_say_so() -> None:
    rows = {"a": True, "b": False, "c": True}
    models = [Model(name, "P", "local", f"up-{name}", auto=is_auto) for name, is_auto in rows.items()]
    assert [choice.model.id for choice in Catalogue(models).choices(None, None)] == ["a", "c"]


# -- the file ---------------------------------------------------------------------------------------------------------

ROW = '[[model]]\nid = "a"\nprovider = "P"\ndialect = "local"\nupstream = "up-a"\n'
OTHER = '[[model]]\nid = "b"\nprovider = "P"\ndialect = "local"\nupstream = "up-b"\n'

BROKEN: list[tuple[str, str, str]] = [
    ("no TOML", "[[model]\n", "not TOML"),
    ("an open string", 'x = "\n', "not TOML"),
    ("no model", "", "missing required field `model`"),
    ("a field nobody knows", ROW + "colour = 1\n", "unknown field `colour`"),
    ("a field outside a row", "colour = 1\n" + ROW, "unknown field `colour`"),
    ("a field missing", '[[model]]\nid = "a"\n', "missing required field `provider`"),
    ("a wrong type", ROW + "names = 5\n", "model[0].names"),
    ("a dialect nobody speaks", ROW.replace("local", "klingon"), "'klingon'"),
    ("an id twice", ROW + OTHER.replace('"b"', '"A"'), "'A' of model 'A' is taken by 'a'"),
    ("a name that is an id", ROW + OTHER + 'names = ["A"]\n', "'A' of model 'b' is taken by 'a'"),
    ("a name twice", ROW + 'names = ["n"]\n' + OTHER + 'names = ["N"]\n', "'N' of model 'b' is taken by 'a'"),
    ("an upstream that is another's name", ROW + OTHER + 'names = ["UP-A"]\n', "'UP-A' of model 'b' is taken by 'a'"),
    ("a fallback nobody is", ROW + 'fallbacks = ["z"]\n', "line 6: the fallback 'z' of model 'a' is not the name of"),
    ("itself as a fallback", ROW + 'fallbacks = ["up-a"]\n', "the fallback 'up-a' of model 'a' is not the name of"),
    ("a name of NeuroSwitch", ROW + 'names = ["NeuroSwitch"]\n', "'NeuroSwitch' of model 'a' is taken"),
]


@pytest.mark.parametrize(("text", "words"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_catalogue_that_is_wrong_says_where(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        catalogue.parse(text)
    assert words in str(caught.value)


def test_a_row_may_say_its_own_name_twice() -> None:
    assert catalogue.parse(ROW + 'names = ["A", "up-a"]\n' + OTHER).find("UP-A").model.id == "a"


SERVED = """
[servers.here]
base_url = "http://127.0.0.1:11434/v1"
[servers.there]
base_url = "https://h/v1"
key_env = "THERE_KEY"
[servers.other]
base_url = "https://o"
dialect = "anthropic"
[[model]]
id = "llama"
provider = "Ollama"
server = "here"
upstream = "llama-4"
prefixes = ["llama-"]
[[model]]
id = "llama-far"
provider = "vLLM"
server = "there"
upstream = "llama-4"
prefixes = ["llama-"]
[[model]]
id = "c"
provider = "C"
server = "other"
upstream = "llama"
"""


def test_a_row_of_a_server_speaks_its_dialect() -> None:
    found = catalogue.parse(SERVED)
    assert [(row.source, row.dialect) for row in found.models] == [
        ("here", "chat_completions"), ("there", "chat_completions"), ("other", "anthropic"),
    ]  # fmt: skip
    assert found.servers["there"].key_env == "THERE_KEY"


def test_an_upstream_id_of_two_providers_means_the_first_or_the_one_that_is_named() -> None:
    found = catalogue.parse(SERVED)
    assert found.find("LLAMA-4").model.id == "llama"
    assert found.find("llama-4", "vllm").model.id == "llama-far"
    assert found.find("llama-9", "VLLM").model.id == "llama-far"
    assert found.find("llama-9").upstream == "llama-9"
    assert found.find("llama").model.id == "llama"  # a name of ours goes before the third one's upstream id
    assert found.find("llama", "c").model.id == "c"
    with pytest.raises(TokenrelayError, match="a model of Ollama, not of 'C'"):
        found.find("llama-4", "C")

"""What an operator writes wrongly stops the start by name, and never opens the service or shows a secret."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import structlog
from pydantic import AliasChoices, ValidationError

from tokenrelay.protocol.runtime import logs
from tokenrelay.protocol.runtime.settings import KNOWN, faults, unknown
from tokenrelay.server import __main__ as entry
from tokenrelay.server import process
from tokenrelay.server.settings import Settings, weak_keys
from tokenrelay.workers.settings import Settings as WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
MARK = "pl4nt3d"

REFUSED = [
    ("API_KEYS", ","), ("API_KEYS", " "), ("API_KEYS", " , ,"), ("API_KEYS", "name"), ("API_KEYS", f":{MARK}"),
    ("API_KEYS", f"a:{MARK},a:{MARK}"), ("API_KEYS", f"a:{MARK},,b"),
    ("KEYS_FILE", " "), ("KEYS_FILE", "/"), ("KEYS_FILE", "/nowhere/keys"),
    ("JWT_SECRET", "short"), ("JWT_SECRET", " " * 40), ("JWT_SECRET", f" {MARK}{'x' * 40}"),
    ("JWKS_FILE", "/nowhere/jwks"), ("JWKS_FILE", "https://issuer.example/jwks"),
    ("JWT_ISSUER", "https://issuer.example"), ("JWT_AUDIENCE", "api"),
    ("ALLOWED_ORIGINS", ","), ("ALLOWED_ORIGINS", " "), ("ALLOWED_ORIGINS", "app.example"),
    ("ALLOWED_ORIGINS", "https://*.example"), ("ALLOWED_ORIGINS", "https://a.example/path"),
    ("ALLOWED_ORIGINS", "https://a.example https://b.example"), ("ALLOWED_ORIGINS", "http://[::1"),
    ("TRUSTED_PROXIES", "proxy.example"), ("TRUSTED_PROXIES", ","), ("TRUSTED_PROXIES", "10.0.0.1/8"),
    ("HOST", " "), ("HOST", "127.0.0.1,0.0.0.0"),
    ("MAX_BODY_BYTES", "nan"), ("MAX_BODY_BYTES", "-1"), ("READ_TIMEOUT_S", "nan"), ("READ_TIMEOUT_S", "inf"),
    ("SEND_TIMEOUT_S", "nan"), ("MESSAGE_RATE", "nan"), ("MESSAGE_RATE", "inf"), ("KEY_RATE", "many"),
    ("KEY_CONCURRENCY", "1.5"), ("MAX_QUEUE", "-1"), ("MAX_CONNECTIONS", "0"), ("KEY_CONNECTIONS", " "),
    ("TICKET_ROTATE_S", "0"), ("QUEUE_TIMEOUT_S", "nan"), ("HEARTBEAT_S", "nan"), ("LOG_FORMAT", "xml"),
    ("REDIS_URL", f"redis://:{MARK}/x@127.0.0.1:6379/0"), ("REDIS_URL", f"redis://:{MARK}#x@127.0.0.1:6379/0"),
    ("REDIS_URL", f"redis://:{MARK}?x@127.0.0.1:6379/0"), ("REDIS_URL", f"redis://:x@{MARK}@127.0.0.1:6379/0"),
    ("REDIS_URL", f"redis://:{MARK}[x@127.0.0.1:6379/0"), ("REDIS_URL", f"redis://:1234/{MARK}@127.0.0.1"),
    ("REDIS_URL", f"rediss://:{MARK}/x@127.0.0.1"), ("REDIS_URL", f"redis+sentinel://:{MARK}/x@127.0.0.1/main"),
    ("REDIS_URL", f"redis+sentinel://:x@h:port{MARK}/main"), ("REDIS_URL", f"http://{MARK}"),
    ("REDIS_URL", f"redis+cluster://:{MARK}/x@h:1,i:2"), ("REDIS_URL", MARK),
    ("REDIS_URL", f"redis://127.0.0.1/0?{MARK}=1"), ("REDIS_URL", f"redis://127.0.0.1/0?socket_timeout={MARK}"),
    ("REDIS_URL", f"redis://:pass word{MARK}@127.0.0.1"),
    ("WEBHOOK_URL", "https://app.example/hook"), ("WEBHOOK_SECRET", f"whsec_{'QUJD' * 8}"),
    ("WEBHOOK_URL", "ftp://a.example"),
    ("WEBHOOK_URL", f"https://user:{MARK}@app.example/"), ("WEBHOOK_URL", "https:///hook"),
    ("WEBHOOK_URL", "app.example"),
    ("WEBHOOK_URL", "https://app.example/#part"), ("WEBHOOK_SECRET", MARK), ("WEBHOOK_SECRET", f"whsec_{MARK}"),
    ("WEBHOOK_SECRET", "whsec_QUJD"), ("WEBHOOK_SECRET", ","), ("WEBHOOK_SECRET", f"whsec_{'QUJD' * 8},{MARK}"),
    ("REDIS_CA", "/etc/hostname"), ("REDIS_CA", "/nowhere"),
]  # fmt: skip


def start(module: str, environment: Mapping[str, str], *options: str) -> tuple[int, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TOKENRELAY_")}
    done = subprocess.run(
        [sys.executable, "-m", f"tokenrelay.{module}", *options],
        env={**ours, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def said_in_process(name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    for known in [each for each in os.environ if each.startswith("TOKENRELAY_")]:
        monkeypatch.delenv(known)
    monkeypatch.setenv(f"TOKENRELAY_{name}", value)
    monkeypatch.setattr(process, "run", lambda *_: pytest.fail("it serves"))
    assert entry.main(["--port", "0"]) == 2
    said = capsys.readouterr()
    return said.out + said.err


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_setting_that_cannot_be_read_stops_the_start_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_in_process(name, value, monkeypatch, capsys)
    assert f"TOKENRELAY_{name}" in said
    assert MARK not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("number", ["3", "0", "2048", "256.5"])
def test_partitions_are_a_power_of_two(
    number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "TOKENRELAY_REDIS_PARTITIONS" in said_in_process("REDIS_PARTITIONS", number, monkeypatch, capsys)


def test_keys_that_are_none_do_not_open_the_service_to_the_network() -> None:
    for value in (",", " "):
        code, said = start("server", {"TOKENRELAY_API_KEYS": value}, "--host", "0.0.0.0", "--port", "0")
        assert (code, "TOKENRELAY_API_KEYS" in said) == (2, True), said


def test_a_worker_refuses_as_an_edge_does() -> None:
    code, said = start("workers", {"TOKENRELAY_REDIS_URL": f"redis://:{MARK}/x@127.0.0.1"})
    assert (code, "TOKENRELAY_REDIS_URL" in said, MARK in said) == (2, True, False), said


def test_an_empty_value_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"TOKENRELAY_{name.upper()}", "")
    assert Settings() == before
    assert Settings().is_open


def test_passwords_with_odd_characters_can_be_written() -> None:
    for url in ("redis://:a%2Fb%23c%3Fd%40e%5Bf@127.0.0.1:6379/0", "unix://app:p%40ss@/tmp/redis.sock?db=1"):
        assert Settings(redis_url=url).redis_url == url


def test_the_names_that_are_known_are_those_that_somebody_reads() -> None:
    fields = {**Settings.model_fields, **WorkerSettings.model_fields}
    read = {f"TOKENRELAY_{name.upper()}" for name, field in fields.items() if not field.validation_alias}
    choices = [field.validation_alias for field in fields.values() if isinstance(field.validation_alias, AliasChoices)]
    read |= {str(name) for each in choices for name in each.choices}
    of_tests = {"TOKENRELAY_SCREENSHOTS", "TOKENRELAY_TEST_CLUSTER"}
    assert read | {"TOKENRELAY_URL", "TOKENRELAY_KEY", "TOKENRELAY_API_KEY"} | of_tests == KNOWN


def test_every_name_in_code_and_deploy_files_is_known() -> None:
    found = set[str]()
    for pattern in ("server/**/*.py", "workers/**/*.py", "protocol/**/*.py", "clients/**/*.[jpt][sy]", "deploy/**/*",
                    "loadtest/**/*.py", "Makefile", "docs/*.md", "README.md"):  # fmt: skip
        for path in ROOT.glob(pattern):
            if path.is_file() and "node_modules" not in path.parts:
                found |= set(re.findall(r"\bTOKENRELAY_[A-Z][A-Z_]*[A-Z]\b", path.read_text("utf-8", "replace")))
    assert found - KNOWN == set()


def test_an_unknown_name_gets_the_nearest_right_one() -> None:
    assert unknown(["TOKENRELAY_KEY_FILE", "TOKENRELAY_API_KEYS", "TOKENRELAY_KEY", "PATH"]) == [
        ("TOKENRELAY_KEY_FILE", "TOKENRELAY_KEYS_FILE")
    ]
    assert unknown(["TOKENRELAY_ALLOWED_ORIGIN"])[0][1] == "TOKENRELAY_ALLOWED_ORIGINS"
    assert unknown(["TOKENRELAY_QQQQQQQQ"]) == [("TOKENRELAY_QQQQQQQQ", None)]


def test_a_short_secret_is_warned_of_by_name_and_the_start_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKENRELAY_API_KEYS", f"alice:{MARK},bob:{'x' * 16}")
    monkeypatch.setenv("TOKENRELAY_HOSTT", "x")
    served: list[object] = []
    monkeypatch.setattr(process, "bind", lambda _: None)
    monkeypatch.setattr(process, "run", lambda *given: served.append(given))
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # it would hold for all tests that follow
    with structlog.testing.capture_logs() as said:
        assert entry.main(["--port", "0"]) == 0
    assert len(served) == 1
    assert weak_keys(Settings()) == ["alice"]
    assert [(line["event"], line.get("key") or line.get("did_you_mean")) for line in said] == [
        ("unknown_setting", "TOKENRELAY_HOST"), ("short_secret", "alice"),
    ]  # fmt: skip
    assert MARK not in str(said)


@pytest.mark.parametrize("name", ["TOKENRELAY_MAX_CONNECTION_AGE_S", "TOKENRELAY_ROTATE_S"])
def test_the_age_of_a_connection_has_two_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "7")
    assert Settings().max_connection_age_s == 7


def test_of_both_the_newer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENRELAY_ROTATE_S", "1")
    monkeypatch.setenv("TOKENRELAY_MAX_CONNECTION_AGE_S", "2")
    assert Settings().max_connection_age_s == 2
    assert Settings(max_connection_age_s=3).max_connection_age_s == 3


@pytest.mark.parametrize("name", ["TOKENRELAY_MAX_CONNECTION_AGE_S", "TOKENRELAY_PORT"])
def test_a_fault_names_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "-1")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert [line.partition(":")[0] for line in faults(refused.value)] == [name]

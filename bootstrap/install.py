"""Makes .venv and installs what is pinned, and says so while it happens; needs Python's standard library only.

    python3 bootstrap/install.py runtime [dev]

    environment   python -m venv, without pip, which would take longer to unpack than all that follows
    installer     uv, from its wheel: it downloads side by side. Where it has no wheel, pip does all of it
    packages      requirements.txt, or requirements-dev.txt
    project       this checkout and its client, editable

Every stage says what it does, at least once in SILENCE_S, and how long it took at the end.
"""

from __future__ import annotations

import configparser
import contextlib
import importlib.util
import os
import queue
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).resolve().parent.parent
VENV: Final = ROOT / ".venv"
PYTHON: Final = VENV / "bin" / "python"
UV: Final = "uv==0.13.9"
SILENCE_S: Final = 3.0  # promised: a line at least every 5 s, also where the machine is busy
REQUIREMENTS: Final = {"runtime": "requirements.txt", "dev": "requirements-dev.txt"}
UNITS: Final = {"k": 1 / 1024, "K": 1 / 1024, "M": 1.0, "G": 1024.0}

# As uv and pip print them: "Resolved 63 packages in 1.40s", "Downloading xllamacpp (32.3MiB)", " Downloaded xllamacpp";
# "Collecting arq==0.28.0", "  Downloading arq-0.28.0-py3-none-any.whl (26 kB)".
COUNT: Final = re.compile(r"(Resolved|Prepared|Installed) (\d+) packages?")
BEGUN: Final = re.compile(r"\s*Downloading (?P<name>\S+) \((?P<size>[\d.]+) ?(?P<unit>[kKMG])i?B\)")
DONE: Final = re.compile(r"\s*Downloaded (?P<name>\S+)")
COLLECTED: Final = re.compile(r"(?:Collecting|Requirement already satisfied:) (\S+)")


class Failed(Exception):
    """A stage did not succeed; the text is for a person."""


class Progress:
    """What an installer has said so far, in one line. `total`: how many packages there are to be."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._doing = "looking up"
        self._collected = 0
        self._sizes: dict[str, float] = {}  # MiB, of those worth a line
        self._under_way: list[str] = []
        self._is_pip = False  # it downloads one after the other, and says nothing when one is there

    def take(self, line: str) -> None:
        if count := COUNT.match(line):
            self._total = int(count[2])
            self._doing = {"Resolved": "downloading", "Prepared": "unpacking", "Installed": "installed"}[count[1]]
            if count[1] != "Resolved":
                self._under_way = []
        elif begun := BEGUN.match(line):
            name, size = begun["name"], float(begun["size"]) * UNITS[begun["unit"]]
            self._under_way = [name] if self._is_pip else [*self._under_way, name]
            self._sizes[name] = size
        elif done := DONE.match(line):
            self._under_way = [name for name in self._under_way if name != done["name"]]
        elif COLLECTED.match(line):
            self._is_pip, self._doing, self._under_way = True, "downloading", []
            self._collected += 1
        elif line.startswith("Installing collected packages"):
            self._doing, self._under_way = "unpacking", []

    def __str__(self) -> str:
        of = f"{self._collected} of {self._total}" if self._collected else str(self._total)
        text = f"{self._doing} {of} packages"
        if self._sizes and self._doing != "looking up":
            there = sum(size for name, size in self._sizes.items() if name not in self._under_way)
            known = "" if self._is_pip else f" of {sum(self._sizes.values()):.0f}"
            text += f", {there:.0f}{known} MiB are here"
        if self._under_way:
            text += "; under way: " + ", ".join(f"{name} ({self._sizes[name]:.0f} MiB)" for name in self._under_way)
        return text


class Stages:
    """What is being done, said to a person; `clock` and `tell` are exchanged by tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, tell: Callable[[str], None] | None = None) -> None:
        self._clock = clock
        self._tell = tell or (lambda line: print(line, flush=True))
        self._began = clock()
        self._said = self._began
        self._times: list[tuple[str, float]] = []

    def begin(self, name: str, text: str) -> None:
        self.end()
        self._times.append((name, self._clock()))
        self.say(text)

    def end(self) -> None:
        """Of the stage under way, if any: from now on its time stands."""
        if self._times and not self._times[-1][0].endswith(" s"):
            name, began = self._times[-1]
            self._times[-1] = (f"{name} {self._clock() - began:.1f} s", began)

    def say(self, text: str) -> None:
        self._said = self._clock()
        self._tell(f"setup: {self._said - self._began:3.0f} s  {text}")

    def is_silent(self) -> bool:
        """For so long that something has to be said."""
        return self._clock() - self._said >= SILENCE_S

    def summary(self) -> str:
        self.end()
        return f"done in {self._clock() - self._began:.1f} s: " + ", ".join(name for name, _ in self._times)


def run(stages: Stages, command: list[str], progress: Progress | str, env: Mapping[str, str] | None = None) -> None:
    """To its end, saying how far it is. Raises Failed with the end of what it printed."""
    printed: list[str] = []
    lines: queue.Queue[str] = queue.Queue()
    with subprocess.Popen(
        command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        reader = threading.Thread(target=pour, args=(process.stdout, lines), daemon=True)
        reader.start()
        try:
            while reader.is_alive() or not lines.empty():
                with contextlib.suppress(queue.Empty):
                    line = lines.get(timeout=0.2)
                    printed.append(line)
                    if isinstance(progress, Progress):
                        progress.take(line)
                if stages.is_silent():
                    stages.say(str(progress))
            code = process.wait()
        finally:
            process.kill()
    if code:
        raise Failed(f"{Path(command[0]).name} ended with code {code}:\n" + "".join(printed[-15:]).rstrip())


def pour(source: IO[str] | None, lines: queue.Queue[str]) -> None:
    for line in source or ():
        lines.put(line)


def pins(path: Path) -> list[str]:
    """What a file of requirements pins, with those that it includes."""
    found: list[str] = []
    for raw in path.read_text(encoding="utf-8").splitlines():
        line = raw.split("#")[0].strip()
        if line.startswith("-r "):
            found += pins(path.parent / line.removeprefix("-r ").strip())
        elif line:
            found.append(line)
    return found


def bundled_pip() -> Path | None:
    """The wheel of pip that comes with Python for `ensurepip`; Debian keeps it elsewhere. pip runs from its wheel."""
    import ensurepip

    places: Iterable[Path] = (
        Path(ensurepip.__file__).parent / "_bundled",
        Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or "/nonexistent"),
        Path("/usr/share/python-wheels"),
    )
    return next((wheel for place in places for wheel in sorted(place.glob("pip-*.whl"))), None)


def make_environment(stages: Stages) -> None:
    """An environment whose Python went away (an upgrade of the system) is made anew."""
    if PYTHON.exists():
        return
    version = ".".join(map(str, sys.version_info[:3]))
    stages.begin("environment", f"making .venv with Python {version}")
    shutil.rmtree(VENV, ignore_errors=True)
    without = ["--without-pip"] if bundled_pip() else []
    run(stages, [sys.executable, "-m", "venv", *without, str(VENV)], "making .venv")


def pip() -> list[str]:
    """A command that is pip: the one this Python has, which is compiled already, or else the bundled one."""
    wheel = bundled_pip()
    found = importlib.util.find_spec("pip") or wheel is None
    return [sys.executable, "-m", "pip"] if found else [sys.executable, f"{wheel}/pip"]


def find_uv(stages: Stages) -> Path | None:
    """Below .venv, fetched if need be; None where it has no wheel."""
    folder = VENV / "installer"
    uv = folder / "bin" / "uv"
    if uv.exists():
        return uv
    stages.begin("installer", f"downloading the installer, {UV} (17 MiB)")
    options = [
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--no-compile",
    ]
    try:
        run(stages, [*pip(), "install", *options, "--target", str(folder), UV], "downloading the installer (17 MiB)")
    except Failed as failure:
        stages.say(f"no {UV} for this machine, pip installs instead, one package at a time\n{failure}")
        return None
    return uv


def uv_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What pip's files and variables say of indexes and certificates, in uv's words; what uv is told stays."""
    words = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "no-index": "UV_NO_INDEX",
        "cert": "SSL_CERT_FILE",
    }
    told: dict[str, str] = {}
    parser = configparser.RawConfigParser()
    parser.read(pip_files(ours), encoding="utf-8")
    for option, word in words.items():
        settings = [parser.get(section, option, fallback="") for section in ("install", "global")]
        for value in (ours.get("PIP_" + option.upper().replace("-", "_"), ""), *settings):
            if value:
                told[word] = ("," if option == "find-links" else " ").join(value.split())
                break
    return {**told, **ours}


def pip_files(ours: Mapping[str, str]) -> list[Path]:
    """https://pip.pypa.io/en/stable/topics/configuration/: global, user, PIP_CONFIG_FILE; a later one wins."""
    home = Path(ours.get("HOME", "/nonexistent"))
    own = Path(ours.get("XDG_CONFIG_HOME", home / ".config")) / "pip" / "pip.conf"
    given = ours.get("PIP_CONFIG_FILE")
    return [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", own, *([Path(given)] if given else [])]


def install(stages: Stages, what: str) -> None:
    """One of REQUIREMENTS, and the project itself with the first."""
    file = ROOT / REQUIREMENTS[what]
    total = len(pins(file))
    uv = find_uv(stages)
    env = uv_environment(os.environ)
    target = "what Tokenrelay runs on" if what == "runtime" else "what tests and lint need"
    stages.begin("packages" if what == "runtime" else f"packages for {what}", f"installing {target}: {total} packages")
    if uv:
        start = [str(uv), "pip", "install", "--python", str(PYTHON)]
    else:
        start = [*pip(), "--python", str(PYTHON), "--no-input", "install", "--progress-bar=off"]
    run(stages, [*start, "--no-deps", "--only-binary=:all:", "-r", str(file)], Progress(total), env)
    if what == "runtime":
        stages.begin("project", "installing the project itself, editable")
        editable = ["--no-deps", "--no-index", "--no-build-isolation", "--config-settings=editable_mode=compat"]
        run(stages, [*start, *editable, "-e", ".", "-e", "clients/python"], "installing the project itself", env)


def main(wanted: list[str]) -> int:
    stages = Stages()
    try:
        if unknown := set(wanted) - REQUIREMENTS.keys():
            raise Failed(f"unknown: {', '.join(unknown)}; known: {', '.join(REQUIREMENTS)}")
        make_environment(stages)
        for what in wanted:
            install(stages, what)
    except Failed as failure:
        print(f"setup: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: stopped; `make` again goes on", file=sys.stderr)
        return 130
    stages.say(stages.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A current React as one ES module, made of the package's own CommonJS files; knows no bundler."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

INSTALL_TIMEOUT_S: Final = 100
FILES: Final = {
    # The development builds: only they have strict mode's second mounting, and say what a hook does wrong.
    "react": "react/cjs/react.development.js",
    "scheduler": "scheduler/cjs/scheduler.development.js",
    "react-dom": "react-dom/cjs/react-dom.development.js",
    "react-dom/client": "react-dom/cjs/react-dom-client.development.js",
}
AXE: Final = "axe-core/axe.min.js"
NAMES: Final = (
    "Component, StrictMode, createContext, createElement, useContext, useEffect, useState, useSyncExternalStore"
)


def install(package: Path) -> Path | None:
    """The modules that `package` wants for its development, kept between runs; None without npm or a network."""
    npm = shutil.which("npm")
    wanted = json.dumps({"private": True, "dependencies": json.loads(package.read_text())["devDependencies"]})
    name = hashlib.sha256(wanted.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"tokenrelay-npm-{name}"
    if all((folder / "node_modules" / file).exists() for file in [*FILES.values(), AXE]):
        return folder / "node_modules"
    if npm is None:
        return None
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text(wanted)
    command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=INSTALL_TIMEOUT_S)
    except (subprocess.SubprocessError, OSError):
        return None
    return folder / "node_modules"


def as_module(modules: Path) -> str:
    """React and its renderer as the text of one ES module."""
    parts = [
        f"{json.dumps(name)}(require, module, exports, process) {{\n{(modules / file).read_text()}\n}}"
        for name, file in FILES.items()
    ]
    return f"""
const files = {{ {",".join(parts)} }};
const loaded = {{}};
function require(name) {{
  if (!loaded[name]) {{
    const module = (loaded[name] = {{ exports: {{}} }});
    files[name](require, module, module.exports, {{ env: {{ NODE_ENV: "development" }} }});
  }}
  return loaded[name].exports;
}}
export const {{ {NAMES} }} = require("react");
export const {{ createRoot }} = require("react-dom/client");
"""

"""A server that is odd in one place is used in all others."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from tests.needs import require
from tokenrelay.workers.tools.base import Outcome
from tokenrelay.workers.tools.mcp import Server
from tokenrelay.workers.tools.registry import Toolbox
from tokenrelay.workers.tools.servers import ServerConfig

OBJECT = {"type": "object"}
TOOLS: list[Any] = [
    {"name": "no_type", "inputSchema": {"properties": {}}},
    {"name": "no_object", "inputSchema": {"type": "string"}},
    {"name": "no_schema"},
    {"name": "a_list", "inputSchema": []},
    {"inputSchema": OBJECT},
    "no tool at all",
    {"name": "plain", "inputSchema": OBJECT, "annotations": 7, "title": [], "icons": "x", "description": 9},
    {"name": "slow", "inputSchema": {"type": "object", "properties": {"a": {"pattern": "^(a+)+$"}}}},
    {
        "name": "promise",
        "inputSchema": OBJECT,
        "outputSchema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
]
TEXT = {"type": "text", "text": "usable"}
RESULTS: dict[str, Any] = {
    "unknown": {"content": [TEXT, {"type": "video", "text": "said", "data": 1}, {"type": "new", "n": 1}, 5]},
    "wrong": {"content": [TEXT], "structuredContent": {"n": "secret"}},
    "missing": {"content": [TEXT]},
    "bare": {"structuredContent": [1, 2]},
    "right": {"content": [TEXT], "structuredContent": {"n": 1}},
}
SERVER = """
import json, sys
tools, results = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    method, params = asked["method"], asked.get("params") or {}
    answer = {"jsonrpc": "2.0", "id": asked["id"]}
    if method == "initialize":
        info = {"name": "odd", "version": "1"}
        answer["result"] = {
            "protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info
        }
    elif method == "tools/list":
        answer["result"] = {"tools": tools}
    elif method == "tools/call" and params["arguments"].get("give") in results:
        answer["result"] = results[params["arguments"]["give"]]
    elif method == "tools/call":
        answer["error"] = {"code": -32000, "message": "in its own words"}
    else:
        answer["error"] = {"code": -32601, "message": "no such method"}
    print(json.dumps(answer), flush=True)
"""


def test_an_odd_tool_is_left_out_by_name_and_odd_results_reach_the_model(tmp_path: Path) -> None:
    require(importlib.util.find_spec("mcp"), "mcp")
    script = tmp_path / "odd.py"
    script.write_text(SERVER)
    config = ServerConfig(command=sys.executable, args=(str(script), json.dumps(TOOLS), json.dumps(RESULTS)))

    async def scene() -> dict[str, Outcome]:
        server = Server("odd", config)
        box = Toolbox([server])
        running = asyncio.create_task(box.run())
        try:
            async with asyncio.timeout(60):
                while not server.tools:
                    await server.listed()
                assert list(server.tools) == ["odd.plain", "odd.slow", "odd.promise"]
                given = {give: await box.call("odd.promise", {"give": give}) for give in (*RESULTS, "error")}
                given["slow"] = await box.call("odd.slow", {"a": "a" * 40 + "!"})
                return given
        finally:
            running.cancel()
            await asyncio.wait([running])

    with capture_logs() as logs:
        given = asyncio.run(scene())
    assert given["unknown"] == Outcome('usable\nsaid\n{"type":"new","n":1}\n5')
    assert given["wrong"] == given["missing"] == given["right"] == Outcome("usable")
    assert given["bare"] == Outcome("[1,2]")
    assert given["error"] == Outcome("in its own words", failed=True)
    assert given["slow"] == Outcome("the arguments could not be checked in time", failed=True)
    left_out = [entry["tool"] for entry in logs if entry["event"] == "mcp_tool_left_out"]
    assert left_out == ["no_type", "no_object", "no_schema", "a_list", ""]
    unlike = [entry for entry in logs if entry["event"] == "mcp_result_unlike_schema"]
    assert ("odd.promise", "n") in {(entry["tool"], entry["where"]) for entry in unlike}
    assert "secret" not in str(logs)
    assert not [entry for entry in logs if entry["event"] == "mcp_server_away"]

"""Requests and responses as JSON schemas. The request comes from its type; tests hold the rest to
`snapshot` and `event_json`.
"""

from __future__ import annotations

from typing import Final, get_args

import msgspec

from tokenrelay.protocol import errors, events
from tokenrelay.protocol.lifecycle import PublicState
from tokenrelay.protocol.wire import request, timing, websocket
from tokenrelay.protocol.wire.openapi.errors import error_schema
from tokenrelay.protocol.wire.openapi.parts import (
    REF,
    Json,
    count,
    object_schema,
    one_of_the_words,
    or_null,
    ref,
    seconds,
    text,
)

_FIELDS: Final = {
    "message": "The question, for a single turn.",
    "prompt": "Another name for `message`.",
    "messages": "The conversation so far, oldest turn first.",
    "model": "A name from `/api/models`, or a provider's own id. Without it, NeuroSwitch chooses.",
    "provider": "The provider whose models may answer.",
    "stream": "True: the answer as events. False: one JSON object at the end.",
    "max_tokens": "The answer ends with `finish_reason` `length` after so many tokens.",
    "temperature": "Left out of the call to a model that does not take it.",
    "top_p": "Left out of the call to a model that does not take it.",
    "stop": "The answer ends before any of these.",
    "seed": "Where a model takes one: the same seed, the same answer.",
    "system": "Instructions that stand before the conversation.",
    "enable_tools": "True lets the model call the server's tools.",
    "tools": (
        "The tools the model may call: ids, `{name}`, or functions as OpenAI's API describes them; without them all "
        "that the server has. A function the server has no tool for is the caller's own: when the model calls it, the "
        "answer ends with `finish_reason` `tool_calls`."
    ),
    "tool_choice": "`auto` (the model decides), `none` (no tool runs), `required`, or one function.",
    "parallel_tool_calls": "False: one call at a time.",
    "reasoning": "How much the model shall think. What a model lacks is sent as its nearest level.",
    "reasoning_effort": "The same as `reasoning.effort`.",
    "response_format": "What the answer has to be, as in OpenAI's Chat Completions.",
    "show": "Events beside the usual: `thinking`, `tool_input` (a tool's arguments as they are written).",
    "metadata": "The caller's own names and values; a generator of the operator's own reads them.",
    "preferences": (
        "What NeuroSwitch weighs when it chooses: `strategy` (balanced, speed, quality, cost, weighted), `weights` "
        "(of quality, speed, cost and strength, 0 to 100), `avoid` and `prefer` (names of models or providers)."
    ),
    "on_disconnect": (
        "What becomes of the generation when nobody reads it any more: `continue`, `cancel`, or `grace:SECONDS` "
        f"(at most {request.MAX_DISCONNECT_GRACE_S})."
    ),
}
_ASKED: Final = ("message", "prompt", "messages")


def _request_schemas() -> dict[str, Json]:
    """`ChatRequest` and `Message` as their types say; added is what `request` checks beyond types."""
    _, schemas = msgspec.json.schema_components([request.ChatRequest], ref_template=REF)
    chat = schemas["ChatRequest"]
    for name, description in _FIELDS.items():
        chat["properties"][name]["description"] = description
    chat["properties"]["on_disconnect"]["pattern"] = "^(continue|cancel|grace:[0-9]{1,4})$"
    del chat["required"]
    for name in request.NOT_TAKEN:
        chat["properties"][name]["description"] = "Of other APIs: no model is told; `left_out` names it."
    # Exactly one of the three is given; null counts as not given.
    given = {name: next(s for s in chat["properties"][name]["anyOf"] if s["type"] != "null") for name in _ASKED}
    chat["oneOf"] = [
        {"required": [name], "properties": {name: schema if name == "messages" else {**schema, "pattern": "\\S"}}}
        for name, schema in given.items()
    ]
    turn = schemas["Message"]
    turn["properties"]["role"]["type"] = "string"
    # Only a turn that calls needs no content.
    turn["anyOf"] = [
        {"required": ["content"], "properties": {"content": {"anyOf": [{"type": "string"}, {"type": "array"}]}}},
        {"required": ["tool_calls"], "properties": {"role": {"const": "assistant"}, "tool_calls": {"type": "array"}}},
    ]
    for name in ("ImagePart", "FilePart", "AudioPart"):  # `part` and `media_type` are between edges and workers
        for inner in ("part", "media_type"):
            del schemas[name]["properties"][inner]
    schemas["AudioSource"]["required"] = ["format", "data"]
    schemas["ImageUrl"]["required"] = ["url"]
    return schemas


_TIMESTAMP: Final = text("ISO 8601, UTC.", format="date-time")
_MODEL_FIELD: Final = text("The model as it was asked for.")
_NO_TOKEN: Final = {"const": "", "description": "Empty, so that a client may append it unseen."}
_NOT_DONE: Final = {"const": False}
_DONE: Final = {"const": True, "description": "This event ends the stream."}
_TOOL: Final = {
    "tool_name": text("Which tool."),
    "tool_input": {"type": "object", "description": "Its arguments."},
    "tool_call_id": text("The same in the call and its result."),
}


def _event(description: str, required: dict[str, Json], optional: dict[str, Json] | None = None) -> Json:
    return object_schema(description, {**required, "timestamp": _TIMESTAMP}, optional)


_TIMING: Final = {
    "timing": object_schema(
        "Where the time to the first token went, in milliseconds; there where `X-Debug-Timing: 1` was asked.",
        {},
        {name: {"type": "number", "minimum": 0} for name in (*timing.PARTS, "hops_ms", "ttft_ms")},
    )
}
_USAGE: Final = {
    "total_tokens": count("Input and output over all rounds."),
    "input_tokens": count("Tokens read."),
    "output_tokens": count("Tokens written."),
}
_ANSWERED: Final = {
    "finish_reason": one_of_the_words(sorted(events.FINISH_REASONS), "Why the answer ends here."),
    "response_time": seconds("Seconds from the request to the end."),
    "model": _MODEL_FIELD,
    "resolved_model": text("The provider's id of the model that answered."),
    "provider": text("Its provider."),
}
_ATTEMPTS: Final = {
    "attempts": {
        "type": "array",
        "description": "The calls of providers that failed before, in order.",
        "items": object_schema(
            "One failed call.",
            {
                "model": text("The model's name here."),
                "provider": text("Its provider."),
                "error_code": text("A row of the error table."),
                "error": text("A sentence."),
                "seconds": seconds("How long it took."),
            },
        ),
    },
}
_LEFT_OUT: Final = {
    "left_out": {
        "type": "array",
        "description": "Fields of the request that this model does not take; it was not told of them.",
        "items": {"type": "string"},
    },
}

_USED: Final = {
    "usage": object_schema(
        "Tokens over all rounds, as far as they are known. Cached and cache-written ones are among the input tokens, "
        "reasoning ones among the output tokens.",
        _USAGE,
        {
            "cached_input_tokens": count("Read from the provider's cache."),
            "cache_write_tokens": count("Written to it."),
            "reasoning_tokens": count("Thought."),
        },
    ),
}
_COST: Final = {"cost_usd": seconds("US dollars, by the catalogue's prices; left out where it has none.")}
_OWN: Final = {
    "own": {
        "type": "integer",
        "minimum": 1,
        "description": "There for a function of the caller's own: its k-th call of one in this answer.",
    },
}
_DATA: Final = {
    "data_name": text("What it is.", minLength=1, maxLength=events.MAX_NAME_CHARACTERS),
    "data": {"description": f"Any JSON, at most {events.MAX_DATA_BYTES} bytes of it."},
}

_EVENTS: Final[dict[str, Json]] = {
    "AcceptedEvent": _event(
        "The edge's own first word, sent before the model does anything. It is not in the log and has no id.",
        {"token": _NO_TOKEN, "done": _NOT_DONE, "status": {"const": "queued"}, "stream_id": text("The stream's id."),
         "model": _MODEL_FIELD},
    ),
    "StartedEvent": _event(
        "A worker has begun.",
        {"token": _NO_TOKEN, "done": _NOT_DONE, "status": {"const": "started"}, "model": _MODEL_FIELD},
        {"routing": {"type": "object", "description": "Why NeuroSwitch chose this model, when it did."}},
    ),
    "TokenEvent": _event(
        "A piece of the answer. Appended in order they are the answer, exactly.",
        {"token": text("The text.", minLength=1), "done": _NOT_DONE, "model": _MODEL_FIELD},
    ),
    "ThinkingStartedEvent": _event(
        "The model thinks: once for each run of thinking, whatever was asked.",
        {"token": _NO_TOKEN, "done": _NOT_DONE, "status": {"const": "thinking"}, "model": _MODEL_FIELD},
    ),
    "ThinkingEvent": _event(
        "A piece of what the model thinks, where `show` has `thinking`.",
        {"thinking": text("The text.", minLength=1), "token": _NO_TOKEN, "done": _NOT_DONE, "model": _MODEL_FIELD},
    ),
    "ToolInputEvent": _event(
        "A piece of a tool's arguments as the model writes them, where `show` has `tool_input`.",
        {"tool_call_id": text("The same in the call that follows."), "tool_input_delta": text("The text."),
         "token": _NO_TOKEN, "done": _NOT_DONE, "model": _MODEL_FIELD},
        {"tool_input_name": text("Which tool; in the first piece of a call.", minLength=1)},
    ),
    "ToolCallEvent": {
        **_event(
            "The model calls a tool.",
            {**_TOOL, "token": _NO_TOKEN, "done": _NOT_DONE, "model": _MODEL_FIELD},
            _OWN,
        ),
        "not": {"required": ["tool_result"]},
    },
    "ToolResultEvent": _event(
        "What the tool gave.",
        {**_TOOL, "token": _NO_TOKEN, "done": _NOT_DONE, "model": _MODEL_FIELD,
         "tool_result": text(f"At most {events.MAX_TOOL_RESULT_BYTES} bytes of UTF-8.")},
        {"tool_error": {"const": True, "description": "There when the tool failed."}},
    ),
    "DataEvent": _event(
        "What a generator of the operator's own tells beside text.",
        {**_DATA, "token": _NO_TOKEN, "done": _NOT_DONE, "model": _MODEL_FIELD},
    ),
    "CompletionEvent": _event(
        "The answer is whole, or was cancelled.",
        {"token": _NO_TOKEN, "done": _DONE, **_USAGE, **_ANSWERED, "stream_id": text("The stream's id.")},
        {**_ATTEMPTS, **_LEFT_OUT, **_TIMING, **_USED, **_COST},
    ),
    "ErrorEvent": object_schema(
        "The answer ends here without being whole; or the request was refused and `stream` was asked for.",
        {"token": _NO_TOKEN, "done": _DONE, "error": text("A sentence for people."),
         "error_code": one_of_the_words(errors.TABLE, "A row of the error table."),
         "retryable": {"type": "boolean", "description": "Whether asking again may help."}},
        {"field": text("Which field of the request is wrong."), "retry_after": seconds("Seconds to wait first."),
         "stream_id": text("The stream's id."),
         "request_id": text("Of a request that was refused."), "timestamp": _TIMESTAMP, **_ATTEMPTS,
         **_USAGE, **_USED, **_COST},
    ),
}  # fmt: skip


_STATE: Final = one_of_the_words(get_args(PublicState), "Where the generation stands.")
_TOOL_CALL: Final = object_schema(
    "One call of a tool, with its result once there is one.",
    _TOOL,
    {"tool_result": text("What it gave."), "tool_error": {"const": True, "description": "There when it failed."},
     **_OWN},
)  # fmt: skip
_TOLD: Final = {
    **_COST,
    "thinking": text("What the model thought, where `show` has `thinking`."),
    "data": {"type": "array", "items": object_schema("What a generator of the operator's own told.", _DATA)},
}
SCHEMAS: Final[dict[str, Json]] = {
    **_request_schemas(),
    **_EVENTS,
    "Event": {
        "description": "The object in a `data:` line, and in a WebSocket's `event` message.",
        "anyOf": [ref(name) for name in _EVENTS],
    },
    "ToolCall": _TOOL_CALL,
    "Answer": object_schema(
        "A whole answer.",
        {"response": text("The text."), **_USAGE, **_ANSWERED, "stream_id": text("The stream's id."),
         "tool_calls": {"type": "array", "items": ref("ToolCall")}, **_USED},
        {**_ATTEMPTS, **_LEFT_OUT, **_TIMING, **_TOLD},
    ),
    "Snapshot": object_schema(
        "A stream as it stands.",
        {"stream_id": text("Its id."), "state": _STATE, "model": _MODEL_FIELD, "text": text("The text so far."),
         "last_event_id": count("The cursor from which to go on."),
         "tool_calls": {"type": "array", "items": ref("ToolCall")},
         **{name: or_null(schema) for name, schema in _ANSWERED.items() if name != "model"},
         "usage": or_null(_USED["usage"]),
         "error": or_null(object_schema(
             "Once it has failed.",
             {"error": text("A sentence."), "error_code": text("A row of the error table."),
              "retryable": {"type": "boolean"}},
         ))},
        _TOLD,
    ),
    "StreamState": object_schema("Where a stream stands.", {"stream_id": text("Its id."), "state": _STATE}),
    "StreamList": object_schema(
        "The caller's own streams, newest first.",
        {"streams": {"type": "array", "items": object_schema(
            "One stream.",
            {"stream_id": text("Its id."), "state": _STATE, "model": _MODEL_FIELD, "created_at": _TIMESTAMP,
             "last_event_id": count("Its last event.")},
            {"metadata": {"type": "object", "additionalProperties": {"type": "string"},
                          "description": "What the caller gave it, if anything."}},
        )}},
    ),
    "TicketRequest": object_schema(
        "What the ticket is for.",
        {},
        {"stream_id": or_null(text("One stream; without it, all the caller's and the WebSocket."))},
    ),
    "Ticket": object_schema(
        "A short-lived pass for what cannot send headers.",
        {"ticket": text("Goes into `?ticket=`."), "expires_in": seconds("Seconds."), "expires_at": _TIMESTAMP},
    ),
    "ModelList": object_schema(
        "The catalogue.",
        {"models": {"type": "array", "items": object_schema(
            "One model.",
            {"id": text("Its name here."), "names": {"type": "array", "items": {"type": "string"}},
             "provider": text("Its provider."),
             "resolved_model": or_null(text("The provider's id; null where it varies.")),
             "streaming": {"type": "boolean"}, "speed": text("A label."),
             "tools": {"type": "boolean", "description": "Whether it can call tools."},
             "available": {"type": "boolean", "description": "Whether a worker can answer with it now."},
             "circuit": one_of_the_words(("closed", "open", "half_open"), "Open: it rests after failures."),
             "ttft_ms": or_null(seconds("Milliseconds to its first token lately; null while unknown.")),
             "context": or_null(count("Tokens it reads and writes together; null: enough for anything.")),
             "price": or_null(object_schema("US dollars a million tokens, by the catalogue; null where it varies.", {
                 "input": seconds("Read."), "output": seconds("Written.")}))},
            {"unavailable_because": text("Why not.")},
        )}},
    ),
    "Readiness": object_schema(
        "Whether new streams can be taken, and if not, what is missing.",
        {"status": one_of_the_words(("ready", "not ready"), "The sum."),
         "redis": one_of_the_words(("ok", "unreachable", "refuses writes"), "The log."),
         "live_feed": one_of_the_words(("ok", "silent"), "Whether events arrive as they are written."),
         "live_feed_probe_age_s": seconds("Since it last proved that it works."),
         "draining": {"type": "boolean", "description": "On its way out."},
         "tasks_in_trouble": {"type": "array", "items": {"type": "string"},
                              "description": "Those of the edge's own tasks that a fault ended a moment ago."},
         "files_in_trouble": {"type": "array", "items": {"type": "string"},
                              "description": "Settings whose file cannot be read now."},
         "workers": count("Living workers."), "edge": text("For people.")},
        {"redis_error": text("The code of Redis's error reply, where it refuses writes.")},
    ),
    "Error": error_schema(),
    "WsCommand": {
        "description": "What a client sends on `/api/ws`. A frame is one message or an array of them.",
        "oneOf": [
            object_schema("Start a generation: these, and the fields of `ChatRequest`.", {"type": {"const": "start"}},
                    {"ref": ref("WsRef"), "idempotency_key": text("As the header of the same name.")}),
            object_schema("Read a stream from a cursor.",
                    {"type": {"const": "resume"}, "stream_id": text("Which.")},
                    {"ref": ref("WsRef"), "after": or_null(count("The cursor.")),
                     "replay": one_of_the_words(("compact", "exact"), "How the backlog comes.")}),
            object_schema("Stop it for good.", {"type": {"const": "cancel"}, "stream_id": text("Which.")},
                    {"ref": ref("WsRef")}),
            object_schema("Read it no longer; it goes on.", {"type": {"const": "detach"}, "stream_id": text("Which.")},
                    {"ref": ref("WsRef")}),
            object_schema("Ask for a `pong`.", {"type": {"const": "ping"}}, {"ref": ref("WsRef")}),
        ],
    },
    "WsRef": {
        "description": "The client's own mark; the answer carries it back.",
        "anyOf": [{"type": "string", "maxLength": websocket.MAX_REF_CHARACTERS}, {"type": "integer"}, {"type": "null"}],
    },
    "WsMessage": {
        "description": "What the server sends. A frame is one message or an array of them.",
        "oneOf": [
            object_schema("A stream is attached.", {"type": {"const": "started"}, "ref": ref("WsRef"),
                                              "stream_id": text("Which.")},
                    {"done": {"const": True, "description": "Its end is behind the cursor: nothing follows."}}),
            object_schema("An event.", {"type": {"const": "event"}, "stream_id": text("Which."),
                                  "id": {"type": "integer", "minimum": 1}, "data": ref("Event")}),
            object_schema("A refusal; the socket lives on.",
                    {"type": {"const": "error"}, "ref": ref("WsRef"), "error": text("A sentence."),
                     "error_code": text("A row of the error table.")}, {"stream_id": text("Which.")}),
            object_schema("The answer to `ping`.", {"type": {"const": "pong"}, "ref": ref("WsRef")}),
            object_schema("A drain began: reconnect.", {"type": {"const": "reconnect"}, "after_ms": count("When.")}),
        ],
    },
}  # fmt: skip

"""`tokenrelay chat`: a conversation in the terminal. Knows what to show, not how it travels.

The answer goes to standard output, everything else to standard error: what is piped on is the answer and nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import signal
import sys
from collections.abc import Iterator
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from clients.python.stream import Client, Refused, Stream, Unreachable

# What a model writes must not move the cursor or rename the window of who reads it.
_NO_CONTROLS: Final = dict.fromkeys([*(c for c in range(32) if c not in (9, 10)), *range(127, 160)])


def run(url: str, key: str | None, model: str | None, resume: str | None, json_output: bool) -> int:
    """Talk until the person leaves; with standard input piped, answer the question it holds. Gives the exit code."""
    chat = Chat(url, key, model, json_output)
    if resume is not None:
        code = chat.resume(resume)
        return chat.talk() if code == 0 and sys.stdin.isatty() else code
    if sys.stdin.isatty():
        return chat.talk()
    return chat.ask(sys.stdin.read())


class Chat:
    """A conversation: who answers, and what has been said."""

    def __init__(self, url: str, key: str | None, model: str | None, json_output: bool) -> None:
        self._url = url
        self._key = key
        self._model = model
        self._json_output = json_output
        self._messages: list[dict[str, str]] = []
        self._notes = Console(stderr=True, highlight=False)

    def talk(self) -> int:
        """Question by question, until Ctrl-D or Ctrl-C at the prompt."""
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")  # `input` then edits lines and knows the last ones
        self._note(f"{self._url} · {self._model or 'NeuroSwitch'} · Ctrl-C stops an answer, Ctrl-D leaves")
        while True:
            try:
                # `input` has to know the prompt, or editing a line would overwrite it; where standard output is piped
                # on, the prompt must not go there.
                question = input("> ") if sys.stdout.isatty() else self._notes.input("> ")
            except (EOFError, KeyboardInterrupt):
                self._notes.print()
                return 0
            if question.strip():
                self.ask(question)

    def ask(self, question: str) -> int:
        """One question and its answer. 0 when the answer is whole."""
        messages = [*self._messages, {"role": "user", "content": question}]
        body: dict[str, Any] = {"messages": messages, "enable_tools": True}
        if self._model is not None:
            body["model"] = self._model
        answer = Answer(self._json_output, self._notes)
        code = self._run(answer, body=body)
        if answer.text:  # also of one that was stopped: the next question may be about it
            self._messages = [*messages, {"role": "assistant", "content": answer.text}]
        return code

    def resume(self, stream_id: str) -> int:
        """An answer that is there already, from its start. 0 when it is whole."""
        return self._run(Answer(self._json_output, self._notes), stream_id=stream_id)

    def _run(self, answer: Answer, *, body: dict[str, Any] | None = None, stream_id: str | None = None) -> int:
        try:
            return asyncio.run(self._follow(answer, body, stream_id))
        except KeyboardInterrupt:  # where the loop cannot catch it
            return 1
        except BrokenPipeError:  # whoever read our output has gone
            return 1
        except Refused as refusal:
            hint = " (--key or TOKENRELAY_KEY)" if refusal.status == 401 else ""
            return self._fail(f"{refusal}{hint}")
        except Unreachable as error:
            return self._fail(f"{self._url}: {error}")

    async def _follow(self, answer: Answer, body: dict[str, Any] | None, stream_id: str | None) -> int:
        async with Client(self._url, self._key) as client:
            if stream_id is not None:
                stream = client.resume(stream_id, on_lost=answer.lost)
            else:
                stream = client.chat(body or {}, on_lost=answer.lost)
            with _stopping(stream, answer):
                async with contextlib.aclosing(aiter(stream)) as events:
                    async for event_id, data in events:
                        answer.take(event_id, data)
        return answer.finish(stream)

    def _fail(self, text: str) -> int:
        self._notes.print(Text(f"tokenrelay: {text}", style="red"), soft_wrap=True)
        return 1

    def _note(self, text: str) -> None:
        self._notes.print(Text(text, style="dim"), soft_wrap=True)


@contextlib.contextmanager
def _stopping(stream: Stream, answer: Answer) -> Iterator[None]:
    """Ctrl-C stops the generation, from the first moment on; a second one stops waiting for that."""
    loop = asyncio.get_running_loop()
    reading = asyncio.current_task()
    tasks: list[asyncio.Task[None]] = []

    def interrupt() -> None:
        if tasks and reading is not None:
            answer.is_left = True
            reading.cancel()
            return
        answer.note("stopping…")
        tasks.append(loop.create_task(stream.cancel()))

    with contextlib.suppress(NotImplementedError):  # no signals in this loop (Windows): Ctrl-C ends the program there
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    except asyncio.CancelledError:
        if not answer.is_left:
            raise
        if reading is not None:
            reading.uncancel()
    finally:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)
        for task in tasks:
            task.cancel()


class Answer:
    """One answer on its way to the screen."""

    def __init__(self, json_output: bool, notes: Console) -> None:
        self._json_output = json_output
        self._notes = notes
        self._is_screen = sys.stdout.isatty()
        self._at_line_start = True
        self._is_lost = False  # said once a drop, not once a try
        self._has_heard = False
        self._end: dict[str, Any] | None = None  # the last event
        self.is_left = False  # the person did not wait for the end
        self.text = ""

    def take(self, event_id: int | None, data: dict[str, Any]) -> None:
        """Show one event at once."""
        self._is_lost, self._has_heard = False, True
        self.text += data["token"]
        if data["done"]:
            self._end = data
        if self._json_output:
            self._write(json.dumps({"id": event_id, **data}) + "\n")
        elif data["token"]:
            self._write(data["token"].translate(_NO_CONTROLS) if self._is_screen else data["token"])
        elif "tool_result" in data:
            self.note(f"{data['tool_name']} gave {data['tool_result'][:200]!r}")
        elif "tool_name" in data:
            self.note(f"{data['tool_name']} {json.dumps(data['tool_input'])[:200]}")

    def lost(self, _: float) -> None:
        """The connection is gone; another is being made."""
        if not self._is_lost:
            self._is_lost = True
            self.note("reconnecting…" if self._has_heard else "connecting…")

    def note(self, text: str) -> None:
        """A word beside the answer, on a line of its own."""
        if self._is_screen and not self._at_line_start:
            self._write("\n")
        self._notes.print(Text(text.translate(_NO_CONTROLS), style="dim"), soft_wrap=True)

    def finish(self, stream: Stream) -> int:
        """The last line. 0 when the answer is whole."""
        if self._is_screen and not self._at_line_start:
            self._write("\n")
        end = self._end
        if end is None or "error" in end:
            text = end["error"] if end else "left before the end" if self.is_left else "the answer is over already"
            self._notes.print(Text(f"tokenrelay: {text}", style="red"), soft_wrap=True)
            return 1
        if self._is_screen and not self._json_output:
            facts = f"{end['resolved_model']} · {end['output_tokens']} tokens · {end['response_time']:.1f} s"
            stopped = " · stopped" if end["finish_reason"] == "cancelled" else ""
            self.note(f"{facts}{stopped} · {stream.stream_id}")
        return 1 if end["finish_reason"] == "cancelled" else 0

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self._at_line_start = text.endswith("\n")

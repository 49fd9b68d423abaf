"""`tokenrelay chat`: a conversation in the terminal. Knows what is said to whom, not how it travels or is shown."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenrelay_client.api import DROPPED, words_of
from tokenrelay_client.client import Client
from tokenrelay_client.errors import Refused, TokenrelayError, Unreachable
from tokenrelay_client.keyboard import silent
from tokenrelay_client.markdown import document, without_controls
from tokenrelay_client.stream import Stream
from tokenrelay_client.transport import Choice
from tokenrelay_client.views import FRAMES_PER_S, STOPPING, View, chooser

_T = TypeVar("_T")

FIRST_PATIENCE_S: Final = 5.0
"""How long a server is looked for that has never answered: the address is probably wrong."""

STOP_TIMEOUT_S: Final = 2.0
"""How long leaving an answer waits for a server that shall stop it."""

STOPPED: Final = 130
"""Exit code of who was ended by Ctrl-C: 128 + SIGINT, as shells count."""

COMMANDS: Final = {
    "/help": "this list",
    "/model [NAME]": "who answers from now on; without a name the server chooses",
    "/models": "whom you can ask",
    "/new": "forget what has been said",
    "/history": "what has been said, with the ids of the streams",
    "/resume ID": "read a stream that is there already",
    "/stop [ID]": "stop a stream that was left; the last one without an ID",
    "/quit": "leave (Ctrl-D)",
}


class Turn(NamedTuple):
    """A question and what has come of it."""

    question: str
    answer: str
    stream_id: str | None


def run(
    url: str,
    key: str | None,
    model: str | None,
    resume: str | None,
    json_output: bool,
    message: str | None = None,
    transport: Choice = "auto",
) -> int:
    """Talk until the person leaves; with a message, or with standard input piped, answer that. Gives the exit code.

    0: the answer is whole; 1: it is not; 130: it was stopped by Ctrl-C.
    """
    if not _can_write():
        return 1
    try:
        code = _run(Chat(url, key, model, json_output, transport), resume, json_output, message)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone
        code = 1
    except OSError as error:  # a full disk, say
        Console(stderr=True, highlight=False).print(f"tokenrelay: the answer cannot be written: {error}", style="red")
        code = 1
    except KeyboardInterrupt:  # where the loop cannot catch it
        code = STOPPED
    if code:
        _drop_output()
    return code


def _run(chat: Chat, resume: str | None, json_output: bool, message: str | None) -> int:
    is_person = sys.stdin.isatty()
    if resume is not None:
        code = chat.read(resume)
        return chat.talk() if code == 0 and is_person and not json_output else code
    if message is None and is_person:
        return chat.talk()
    piped = "" if is_person else sys.stdin.read()
    question = "\n\n".join(part for part in (message, piped) if part and part.strip())
    if not question:
        return chat.complain("there is no question: give one as an argument, or pipe it in")
    return chat.ask(question)


def _can_write() -> bool:
    """Whether there is a standard output. What its encoding does not have is written as `?`, and read as U+FFFD."""
    nowhere = Path(os.devnull)  # in place of what is closed, for as long as the process lasts
    sys.stderr = sys.stderr or nowhere.open("w", encoding="utf-8")
    sys.stdin = sys.stdin or nowhere.open(encoding="utf-8")
    if sys.stdout is None:
        sys.stderr.write("tokenrelay: standard output is closed: there is nowhere to write the answer\n")
        return False
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # it may be another's, in a test say
            stream.reconfigure(errors="replace")
    return True


def _drop_output() -> None:
    """What could not be written is not tried again at the end of the process, which would say so with a traceback."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class Chat:
    """A conversation: who answers, and what has been said."""

    def __init__(self, url: str, key: str | None, model: str | None, json_output: bool, transport: Choice) -> None:
        self._url = url
        self._key = key
        self._model = model
        self._transport = transport
        self._notes = Console(stderr=True, highlight=False)
        self._view = chooser(json_output, self._notes)
        self._turns: list[Turn] = []  # of this conversation
        self._last_id: str | None = None  # of the stream read last

    def talk(self) -> int:
        """Question by question, until Ctrl-D or Ctrl-C at the prompt."""
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")  # `input` then edits lines and knows the last ones
        self._note(f"{self._model or 'NeuroSwitch'} at {self._url}")
        self._note("Ctrl-C stops an answer, Ctrl-D leaves, /help lists what else there is")
        while True:
            try:
                # `input` has to know the prompt, or editing a line would overwrite it; where standard output is piped
                # on, the prompt must not go there.
                line = input("> ") if sys.stdout.isatty() else self._notes.input("> ")
            except (EOFError, KeyboardInterrupt):
                self._notes.print()
                return 0
            line = line.strip()
            if line in ("/quit", "/exit"):
                return 0
            if line.startswith("/") and not line.startswith("//"):
                self.obey(line)
            elif line:
                self.ask(line.removeprefix("/"))  # `//` begins a question that begins with a slash
                self._notes.print()

    def ask(self, question: str) -> int:
        """One question and its answer."""
        messages = [message for turn in self._turns for message in _messages_of(turn)]
        body: dict[str, Any] = {"messages": [*messages, {"role": "user", "content": question}], "enable_tools": True}
        body["show"] = ["thinking"]
        if self._model is not None:
            body["model"] = self._model
        code, stream = self._follow(lambda client: client.chat(body))
        if stream is not None and stream.text:  # also of one that was stopped: the next question may be about it
            self._turns.append(Turn(question, stream.text, stream.stream_id))
        return code

    def read(self, stream_id: str) -> int:
        """An answer that is there already, from its start."""
        return self._follow(lambda client: client.resume(stream_id))[0]

    # -- commands ------------------------------------------------------------------------------------------------------

    def obey(self, line: str) -> None:
        """What a line that begins with a slash wants."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        match name:
            case "/help":
                self._table(COMMANDS.items())
            case "/model":
                self._model = rest or None
                self._note(f"the next question goes to {self._model or 'NeuroSwitch'}")
            case "/models":
                self._table(_rows(self._call(lambda client: client.models())))
            case "/new":
                self._turns.clear()
                self._note("a new conversation")
            case "/history":
                for turn in self._turns:
                    self._tell(Text(f"> {without_controls(turn.question)}", style="bold"))
                    self._notes.print(document(without_controls(turn.answer)))
                    self._note(f"{turn.stream_id}\n")
                if not self._turns:
                    self._note("nothing has been said yet")
            case "/resume" if rest:
                self.read(rest)
            case "/stop" if stream_id := rest or self._last_id:
                state = self._call(lambda client: client.stop(stream_id))
                self._note(f"{stream_id} {state}" if state else "")
            case _:
                self._note(f"{line}: /help says what can be done here")

    def _call(self, work: Callable[[Client], Coroutine[Any, Any, _T]]) -> _T | None:
        async def call() -> _T:
            async with Client(self._url, self._key) as client, asyncio.timeout(FIRST_PATIENCE_S):
                return await work(client)

        try:
            return asyncio.run(call())
        except (TokenrelayError, *DROPPED) as error:
            self.complain(words_of(error) if not isinstance(error, TokenrelayError) else str(error))
        except KeyboardInterrupt:
            pass
        return None

    # -- one answer ----------------------------------------------------------------------------------------------------

    def _follow(self, make: Callable[[Client], Stream]) -> tuple[int, Stream | None]:
        """The exit code, and the stream as it was left."""
        try:
            return asyncio.run(self._show(make))
        except KeyboardInterrupt:  # where the loop cannot catch it
            return STOPPED, None
        except TokenrelayError as error:  # the address is none
            return self.complain(str(error)), None

    async def _show(self, make: Callable[[Client], Stream]) -> tuple[int, Stream]:
        client = Client(
            self._url, self._key, transport=self._transport,
            first_patience_s=FIRST_PATIENCE_S, stop_timeout_s=STOP_TIMEOUT_S,
        )  # fmt: skip
        async with client:
            stream = make(client)
            with silent(), self._view() as view:

                def tell() -> None:
                    view.state(stream.state, stream.stream_id)
                    view.waiting(stream.attempts, stream.retry_at)

                stream.subscribe(tell)
                with _interruptible(stream, view) as interrupts, _ticking(view):
                    await self._read(stream, view)
            if stream.events:  # it is there
                self._last_id = stream.stream_id
            return self._finish(stream, bool(interrupts)), stream

    async def _read(self, stream: Stream, view: View) -> None:
        try:
            async with contextlib.aclosing(aiter(stream)) as events:
                rested_at = time.monotonic()
                async for event in events:
                    view.take(event)
                    # Events that are there already are given without a wait: keys and the screen have their turn.
                    if time.monotonic() - rested_at > 1 / FRAMES_PER_S:
                        await asyncio.sleep(0)
                        rested_at = time.monotonic()
        except TokenrelayError as error:
            hint = " (--key or TOKENRELAY_API_KEY)" if error.status == 401 else ""
            view.fail(_told(error, f"{error}{hint}"))

    def _finish(self, stream: Stream, is_interrupted: bool) -> int:
        """The last line, and the exit code."""
        end = stream.events[-1][1] if stream.events else {}
        if stream.state == "detached":
            self._note(f"left while it was written: --resume {stream.stream_id}, or /stop")
        elif stream.state == "done" and "finish_reason" in end:
            self._facts(end, stream)
        elif stream.state == "done" and not is_interrupted:
            self._note("the answer is over already")
            return 1
        if is_interrupted:
            return STOPPED
        return 0 if stream.state == "done" and end.get("finish_reason") != "cancelled" else 1

    def _facts(self, end: dict[str, Any], stream: Stream) -> None:
        if not sys.stdout.isatty():
            return
        facts = [str(end["resolved_model"]), f"{end['output_tokens']} tokens", f"{end['response_time']:.1f} s"]
        facts += ["stopped"] if end["finish_reason"] == "cancelled" else []
        facts += ["cut at the limit"] if end["finish_reason"] == "length" else []
        self._note(" · ".join([*facts, str(stream.stream_id)]))

    def complain(self, text: str) -> int:
        """Gives the exit code."""
        self._tell(Text(f"tokenrelay: {without_controls(text)}", style="red"))
        return 1

    def _note(self, text: str) -> None:
        self._tell(Text(without_controls(text), style="dim"))

    def _tell(self, text: Text) -> None:
        # On a screen a line breaks between words; where it is piped on, nowhere.
        self._notes.print(text, soft_wrap=not self._notes.is_terminal)

    def _table(self, rows: Any) -> None:
        table = Table.grid(padding=(0, 3))
        for row in rows:
            table.add_row(*(Text(without_controls(str(cell))) for cell in row))
        self._notes.print(table)


@contextlib.contextmanager
def _interruptible(stream: Stream, view: View) -> Iterator[list[asyncio.Task[None]]]:
    """Ctrl-C stops the generation, from the first moment on; a second one stops waiting for that, and so does the first
    where the server cannot be reached: it is told once more while the answer is left. Gives what it did."""
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []

    async def stop() -> None:
        with contextlib.suppress(Refused, Unreachable):  # one that is over already cannot be stopped
            await stream.cancel()

    def interrupt() -> None:
        if tasks:
            stream.detach()
            return
        is_gone = stream.state == "reconnecting"
        view.note("the server cannot be reached: the answer is left" if is_gone else STOPPING)
        tasks.append(loop.create_task(stop()))
        if is_gone:
            loop.call_soon(stream.detach)  # once the stop is asked for

    with contextlib.suppress(NotImplementedError):  # no signals in this loop (Windows): Ctrl-C ends the program there
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield tasks
    finally:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)
        for task in tasks:
            task.cancel()


@contextlib.contextmanager
def _ticking(view: View) -> Iterator[None]:
    async def tick() -> None:
        while True:
            view.tick()
            await asyncio.sleep(1 / FRAMES_PER_S)

    task = asyncio.get_running_loop().create_task(tick())
    try:
        yield
    finally:
        task.cancel()


def _told(error: TokenrelayError, message: str) -> TokenrelayError:
    error.args = (message,)
    return error


def _messages_of(turn: Turn) -> list[dict[str, str]]:
    return [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]


def _rows(models: list[dict[str, Any]] | None) -> Iterator[tuple[str, str, str]]:
    for model in models or []:
        why = "" if model["available"] else str(model.get("unavailable_because") or "not available now")
        yield str(model["id"]), str(model["provider"]), why

"""The console script `tokenrelay`: reads a command line and hands over; refuses to know how anything is done.

Whatever it needs it imports in the command that needs it: `--help` is there at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

app = typer.Typer(
    name="tokenrelay",
    help="Streams the answers of language models token by token, and survives what happens in between.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: rich alone takes three times as long to import as all the rest
    pretty_exceptions_enable=False,  # a traceback goes into a bug report: plain, and without local values
)

Host = Annotated[str, typer.Option(envvar="TOKENRELAY_HOST", help="Address to listen on.")]
Port = Annotated[int, typer.Option(envvar="TOKENRELAY_PORT", min=0, max=65535, help="Port; 0 takes any free one.")]
Processes = Annotated[int, typer.Option(min=1, help="How many processes.")]


def main() -> None:
    app()


def show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            typer.echo(f"tokenrelay {metadata.version('tokenrelay')}")
        except metadata.PackageNotFoundError:
            typer.echo("tokenrelay, run from its source without being installed")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def up(
    port: Port = 8000,
    host: Host = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    edges: Annotated[int, typer.Option(min=1, help="Edge processes.")] = 1,
) -> None:
    """The whole stack on this machine: Redis, a worker with a local model, an edge with the chat page."""
    from tokenrelay.server.stack.up import Plan, main

    raise typer.Exit(main(Plan(host=host, port=port, workers=workers, edges=edges)))


@app.command()
def init(folder: Annotated[Path, typer.Argument(metavar="NAME", help="The folder to make; the model's name.")]) -> None:
    """Write a small project with an agent of your own: handler, catalogue, test. `tokenrelay up` in it runs it."""
    from tokenrelay.server.stack import project

    try:
        project.make(folder)
    except (project.CannotMake, OSError) as error:
        fail(str(error), 1)
    typer.echo(f"{folder} is made. Run it: cd {folder} && tokenrelay up")


@app.command()
def serve(host: Host = "127.0.0.1", port: Port = 8000, processes: Processes = 1) -> None:
    """An edge: HTTP, SSE, WebSocket and the chat page. The same as `python -m server`."""
    os.environ.update(TOKENRELAY_HOST=host, TOKENRELAY_PORT=str(port))
    become("server", processes)


@app.command()
def work(processes: Processes = 1) -> None:
    """A worker: runs the models. The same as `python -m workers`."""
    become("workers", processes)


@app.command()
def chat(
    message: Annotated[
        str | None, typer.Argument(help="One question; what is piped in is put below it. None: a conversation.")
    ] = None,
    url: Annotated[
        str, typer.Option("--url", "--host", envvar="TOKENRELAY_URL", help="The server.")
    ] = "http://127.0.0.1:8000",
    key: Annotated[
        str | None,
        typer.Option(envvar=["TOKENRELAY_API_KEY", "TOKENRELAY_KEY"], help="API key, where the server asks for one."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model; the server chooses where none is named.")] = None,
    resume: Annotated[str | None, typer.Option(help="Carry on reading this stream.")] = None,
    transport: Annotated[
        Literal["auto", "websocket", "sse"], typer.Option(help="How answers come; auto: one where the other breaks.")
    ] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print every event as one line of JSON.")] = False,
) -> None:
    """Chat in the terminal; a dropped connection is picked up where it was, Ctrl-C stops the answer.

    Exit code: 0 the answer is whole, 1 it is not, 130 it was stopped by Ctrl-C.
    """
    try:
        from tokenrelay_client import terminal
    except ImportError as error:
        fail(f"the terminal client cannot be loaded: {error}", 1)
    raise typer.Exit(terminal.run(url, key, model, resume, json_output, message, transport))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="One run of each figure, smaller; no evidence.")] = False,
    compare: Annotated[
        str | None, typer.Option(metavar="NAME", help="Other builds beside: naive, stock-arq, nchan, socketio, all.")
    ] = None,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the table there too.")] = None,
) -> None:
    """The benchmark: starts fleets here, prints every figure beside its bar. The same as `python -m loadtest.bench`.

    `bench growth`, `bench idle`, `bench soak` and `bench capacity` have options of their own.
    """
    options = [*context.args, *(["--quick"] if quick else [])]
    for name, value in (("--compare", compare), ("--json", json_file)):
        options += [name, value] if value is not None else []
    from tokenrelay.protocol.runtime.launcher import role_command

    become_command(role_command("loadtest.bench", *options))


keys = typer.Typer(help="API keys in a file that edges read (TOKENRELAY_KEYS_FILE).", no_args_is_help=True)
app.add_typer(keys, name="keys")
KeysFile = Annotated[Path, typer.Option("--file", envvar="TOKENRELAY_KEYS_FILE", help="The file.")]


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Whose; streams belong to this name.")],
    file: KeysFile,
    concurrency: Annotated[
        int | None, typer.Option(min=0, help="Streams it may have under way, 0: no limit. Default: the setting's.")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=0, help="Streams it may start a minute, 0: no limit. Default: the setting's.")
    ] = None,
    connections: Annotated[
        int | None, typer.Option(min=0, help="Connections to one edge process, 0: no limit. Default: the setting's.")
    ] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(min=0, help="Largest max_tokens, 0: no limit. Default: the setting's.")
    ] = None,
) -> None:
    """Make a key and print its secret, once: the file keeps only a digest."""
    from tokenrelay.server.access import api_keys

    try:
        typer.echo(api_keys.add(file, name, api_keys.KeyLimits(concurrency, rate, connections, max_output_tokens)))
    except (api_keys.BadKeys, OSError) as error:
        fail(str(error), 1)


@keys.command("list")
def list_keys(file: KeysFile) -> None:
    """Names, when they were made, and their own limits."""
    from tokenrelay.server.access import api_keys

    try:
        for key in api_keys.read_file(file):
            typer.echo(f"{key.name}\t{key.created}\t{key.limits}".rstrip())
    except (api_keys.BadKeys, OSError) as error:
        fail(str(error), 1)


@keys.command("revoke")
def revoke_key(name: Annotated[str, typer.Argument(help="Whose.")], file: KeysFile) -> None:
    """Take a key away; edges notice within about a second."""
    from tokenrelay.server.access import api_keys

    try:
        api_keys.revoke(file, name)
    except (api_keys.BadKeys, OSError) as error:
        fail(str(error), 1)


def become(package: str, processes: int) -> NoReturn:
    """Exec, so that there is one process and signals go where they are sent. The roles do not import each other."""
    from tokenrelay.protocol.runtime.launcher import role_command

    become_command(role_command(package, "--processes", str(processes)))


def become_command(command: list[str]) -> NoReturn:
    from tokenrelay.protocol.runtime.launcher import importable

    sys.stdout.flush()
    os.execve(sys.executable, command, importable(os.environ))  # noqa: S606 - no shell is the point


def fail(text: str, code: int) -> NoReturn:
    typer.echo(f"tokenrelay: {text}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()

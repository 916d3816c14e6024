"""``everstep dev``: the HTTP API and a worker in one process, started anew when the code changes."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from contextlib import closing
from importlib.util import find_spec
from typing import Final

import click

from everstep.cli.console import Console
from everstep.cli.devserver import TOKEN, DevServer
from everstep.cli.exits import Exit
from everstep.cli.reload import Inherited, supervise
from everstep.cli.store import StoreOptions, local_store_options, refuse_aws
from everstep.errors import ConfigurationError

PUBLIC_URL: Final = "EVERSTEP_PUBLIC_URL"
SHORTEST_TOKEN: Final = 16
TOKEN_BYTES: Final = 24
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@click.command()
@click.option("--app", required=True, metavar="APP", help="Module or file of the app; with :NAME if it has several.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the API listens.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@local_store_options
@click.option("--reload/--no-reload", default=True, show_default=True, help="Start anew when a source file changes.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Replay runs after every turn, to find what would not replay.",
)
@click.option("--verbose", "-v", is_flag=True, help="Say when each step starts and ends.")
@click.option("--inherited", hidden=True)
def dev(
    app: str,
    host: str,
    port: int,
    store: StoreOptions,
    reload: bool,
    verify: bool,
    verbose: bool,
    inherited: str | None,
) -> None:
    """Serve the HTTP API and work on runs, in one process, while you write workflows.

    The API's token is printed at the start; EVERSTEP_DEV_TOKEN chooses one. When a .py file changes, in this folder or
    the app's, everything is started anew, and runs go on. Ctrl-C stops it.
    """
    refuse_aws(store, "'sam deploy' deploys an app with its API")
    missing = [name for name in ("uvicorn", "fastapi") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(f"everstep dev needs {' and '.join(missing)}: pip install 'everstep[server]'")
    console = Console(sys.stdout, sys.stderr)
    serving = DevServer(app=app, store=store, verify=verify, verbose=verbose, console=console)
    if inherited is not None:
        handles = Inherited.read(inherited)
        handles.watch_parent()
        with closing(socket.socket(fileno=handles.server)) as server:
            raise Exit(serving.run(server))
    with closing(_listen(host, port)) as server:
        url = _url(server)
        _announce(console, url, _token())
        os.environ.setdefault(PUBLIC_URL, url)
        raise Exit(supervise(app, server, console) if reload else serving.run(server))


def _token() -> str | None:
    """The token if it is a new one; None if somebody has chosen it."""
    chosen = os.environ.get(TOKEN, "")
    if not chosen:
        os.environ[TOKEN] = secrets.token_urlsafe(TOKEN_BYTES)
        return os.environ[TOKEN]
    if len(chosen) < SHORTEST_TOKEN:
        raise ConfigurationError(f"{TOKEN} has {len(chosen)} characters; a token that cannot be guessed has 16 or more")
    return None


def _announce(console: Console, url: str, token: str | None) -> None:
    paint = console.style.paint
    console.say(
        f"API    {paint(url, 'bold')}",
        f"docs   {paint(url + '/docs', 'bold')}",
        f"token  {paint(token, 'bold') if token is not None else f'the one in {TOKEN}'}",
    )


def _listen(host: str, port: int) -> socket.socket:
    """A socket of our own, so that no request is refused while everything is started anew."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigurationError(f"--host {host!r}: {error.strerror or error}") from error
    server = socket.socket(family, kind)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen()
    except OSError as error:
        server.close()
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --port, 0 takes a free one"
        ) from error
    return server


def _url(server: socket.socket) -> str:
    """Where this machine reaches it."""
    host, port = server.getsockname()[:2]
    host = _ANY_ADDRESS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

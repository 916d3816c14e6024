"""The `everstep` command: sub-commands, imported when used, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

from everstep.cli.exits import Exit, ExitCode
from everstep.errors import EverstepError, StoreError

REPLAYS: Final = frozenset({"run", "worker", "dev", "resume", "cost"})
"""Commands that run workflow bodies: their hash seed is fixed, so that iterating a set of strings replays."""

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "run": ("everstep.cli.run:run", "Run a workflow to its end, here, and print its result."),
    "start": ("everstep.cli.start:start", "Start a run for a worker to take up, and print its id."),
    "worker": ("everstep.cli.worker:worker", "Work on all runs until stopped."),
    "dev": ("everstep.cli.dev:dev", "Serve the HTTP API and work on runs, while you write workflows."),
    "resume": ("everstep.cli.run:resume", "Go on with a run that was stopped or parked."),
    "cancel": ("everstep.cli.control:cancel", "Ask runs to end; they may clean up."),
    "terminate": ("everstep.cli.control:terminate", "End a run at once."),
    "pause": ("everstep.cli.control:pause", "Deliver nothing to a run until it is unpaused."),
    "unpause": ("everstep.cli.control:unpause", "Let a paused run go on."),
    "wake-up": ("everstep.cli.control:wake_up", "End a run's sleep now."),
    "rerun": ("everstep.cli.control:rerun", "Start a new run with the input of another one."),
    "hooks": ("everstep.cli.hooks:hooks", "Show what a run waits for others to send."),
    "resume-hook": ("everstep.cli.hooks:resume_hook", "Send a payload to the run that waits for it."),
    "inspect": ("everstep.cli.inspect:inspect", "Look at runs, their steps and their history."),
    "init": ("everstep.cli.init:init", "Write a new project, ready to run and to deploy."),
    "deploy-check": ("everstep.cli.deploycheck:deploy_check", "Check what is deployed on AWS."),
    "cost": ("everstep.cli.cost:cost", "Measure what a workflow would cost on AWS."),
    "env": ("everstep.cli.env:env", "Print a stack's settings, for programs that start runs."),
}
"""Where each command is, and its line in the help, which must not cost an import."""

EPILOG: Final = """\b
Exit codes:
    0  done; where a command waits for a run: it completed
    1  the run failed or was cancelled; deploy-check: a check failed
    2  bad input: the message says what to change; nothing was written
    3  the run is parked: it waits for fixed code
    4  the database, AWS or stdout could not be used: locked, full, damaged, refused
   70  an error in Everstep itself
  130  stopped by Ctrl-C (143: by SIGTERM); runs are kept and go on

\b
Runs are in a file, --db FILE (default: EVERSTEP_DB, or .everstep/runs.db), or on AWS, --stack NAME (or --backend aws
in the folder of a project that was deployed).
"""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"there is no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("everstep")
    except PackageNotFoundError:
        found = "(not installed)"
    click.echo(f"everstep {found}, Python {sys.version.split()[0]}")
    ctx.exit()


@click.group(
    cls=_LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of any error of the command itself."
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Durable workflows in Python: they survive crashes, sleeps and restarts.

    \b
      everstep run shop.py:create_site --input '{"user_id": "u1"}'
      everstep inspect runs
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


# --- running it ------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; without arguments, this process's own, which may start it anew."""
    own = arguments is None
    words = sys.argv[1:] if arguments is None else list(arguments)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - open for as long as we run
    if own:
        _fix_hash_seed(words)
    code = _run(words)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # whoever read it has gone, and Python must not try again
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if own and any(each is not threading.main_thread() and not each.daemon for each in threading.enumerate()):
        os._exit(code)  # a 'def' step that was stopped still runs in its thread, and Python would wait for it
    return code


def _run(words: list[str]) -> int:
    debug = "--debug" in words[: _command_index(words)] or os.environ.get("EVERSTEP_DEBUG", "") not in (
        "",
        "0",
        "false",
    )
    try:
        cli.main(words, prog_name="everstep", standalone_mode=False)
        return ExitCode.DONE
    except Exit as ended:
        return ended.code
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        _say("stopped")
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        _say(f"error: {_usage(error)}")
        return ExitCode.BAD_INPUT
    except EverstepError as error:
        if debug:
            traceback.print_exc()
        _say(f"error: {' '.join(str(error).split())}")
        return ExitCode.STORE if isinstance(error, StoreError) else ExitCode.BAD_INPUT
    except OSError as error:
        if debug:
            traceback.print_exc()
        _say(f"error: {error}")
        return ExitCode.STORE
    except Exception as error:
        if debug:
            traceback.print_exc()
        hint = "" if debug else "; to see where, repeat it with EVERSTEP_DEBUG=1"
        _say(
            f"error: unexpected {type(error).__name__}: {' '.join(str(error).split())} "
            f"(this looks like a bug in Everstep{hint})"
        )
        return ExitCode.INTERNAL


def _usage(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split()).rstrip(".")
    text = text[:1].lower() + text[1:]
    ctx = getattr(error, "ctx", None)
    return f"{text} (see '{ctx.command_path} --help')" if ctx is not None else text


def _say(text: str) -> None:
    try:
        print(f"everstep: {text}", file=sys.stderr)
    except OSError:
        pass


def _command_index(words: Sequence[str]) -> int:
    """Where the command is: after the options of `everstep` itself, none of which takes a value."""
    return next((index for index, word in enumerate(words) if not word.startswith("-")), len(words))


def _fix_hash_seed(words: Sequence[str]) -> None:
    """Start this process anew with a fixed hash seed, which Python reads at its start, if it is to run bodies."""
    index = _command_index(words)
    if "PYTHONHASHSEED" in os.environ or words[index : index + 1] == [] or words[index] not in REPLAYS:
        return
    if sys.flags.ignore_environment or not sys.executable or "--help" in words or "-h" in words:
        return
    environment: dict[str, Any] = {**os.environ, "PYTHONHASHSEED": "0"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)

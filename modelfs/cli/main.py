"""The command `modelfs`: its sub-commands, and the exit codes of their errors."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from typing import Any, Final, NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from modelfs.cli import logs
from modelfs.cli.escape import plain
from modelfs.cli.failure import EXPECTED, Code, Failure, describe
from modelfs.cli.output import ClosedPipe, replace_stdout
from modelfs.cli.start import raise_interrupts
from modelfs.cli.streams import open_closed_streams

# The modules of `commands`. Each is loaded when its command is called, because some of them load
# slow libraries.
COMMANDS: Final = (
    *("mkfs", "mount", "umount", "sync", "stats", "inspect"),
    *("fsck", "scrub", "gc", "optimize", "warm", "cool"),
)

EPILOG: Final = """\b
First steps:
  modelfs mkfs ~/models.store
  mkdir ~/models
  modelfs mount ~/models.store ~/models
  cp *.safetensors ~/models
  modelfs sync ~/models
  modelfs optimize ~/models
  modelfs stats ~/models
  modelfs umount ~/models

\b
Exit codes:
  0    success
  1    failure; one line on stderr has the reason and the next step
  2    wrong usage
  130  interrupted with Ctrl-C
  fsck uses the codes of fsck(8): 0 no damage, 1 repaired, 4 damage left,
  8 could not check, 16 wrong usage; scrub also uses 4 for damage
"""


class Commands(click.Group):
    """A group whose commands are loaded when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"modelfs.cli.commands.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command. Ctrl-C ends one that has no message of its own for that."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as exc:
            raise Failure("interrupted", Code.INTERRUPTED) from exc


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        try:
            version = metadata.version("modelfs")
        except metadata.PackageNotFoundError:
            version = "(not installed, running from its source)"
        click.echo(f"modelfs {version}")
        ctx.exit()


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Store machine-learning models in a file system that keeps each distinct tensor once.

    A STORE is a folder with all data in it. `modelfs mount` shows its files in another folder, the
    MOUNTPOINT, where any program can read and write them.
    """
    logs.of_command()


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    arguments = sys.argv[1:]
    if arguments and "/" in arguments[0]:
        # mount(8) calls a file system's command like that: see `mount_helper`.
        end_with(import_module("modelfs.cli.mount_helper").run, arguments)
    end_with(run, arguments)


def end_with(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> NoReturn:
    """Run a command, and end the process with its exit code."""
    open_closed_streams()
    replace_stdout()
    code = command(arguments)
    if code == Code.CLOSED_PIPE:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
    # Python takes a while to exit; Ctrl-C must not print a traceback then.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command, print its error as one line on stderr, and return its exit code."""
    try:
        raise_interrupts()
        code = cli.main(list(arguments), prog_name="modelfs", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except NoArgsIsHelpError as exc:
        click.echo(exc.format_message(), err=True)
        return Code.USAGE
    except click.UsageError as exc:
        command = "modelfs" if exc.ctx is None else exc.ctx.command_path
        message = plain(" ".join(exc.format_message().rstrip(".").split()))
        click.echo(f"modelfs: {message}; see `{command} --help`", err=True)
        return Code.FSCK_USAGE if command == "modelfs fsck" else Code.USAGE
    except (click.Abort, KeyboardInterrupt):
        return Code.INTERRUPTED
    except ClosedPipe:
        return Code.CLOSED_PIPE
    except Exception as exc:
        if not isinstance(exc, EXPECTED) and os.environ.get("MODELFS_DEBUG"):
            raise
        click.echo(f"modelfs: {describe(exc)}", err=True)
        code = exc.code if isinstance(exc, Failure) else Code.FAILED
        # 1 would be "all of it is repaired".
        is_fsck = [*arguments[:1]] == ["fsck"]
        return Code.NOT_CHECKED if is_fsck and code == Code.FAILED else code
    return code if isinstance(code, int) else Code.OK

"""The command and its sub-commands, and what becomes of their errors."""

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Final

import click
from click.exceptions import NoArgsIsHelpError

from modelfs.cli import logs
from modelfs.cli.escape import plain
from modelfs.cli.failure import EXPECTED, Code, Failure, describe

# The modules of `commands`. One is loaded when its command is called, so that no command waits for
# what only another needs.
COMMANDS: Final = (
    *("mkfs", "mount", "umount", "sync", "stats", "inspect"),
    *("fsck", "scrub", "gc", "optimize"),
)

EPILOG: Final = """\b
Begin with:
  modelfs mkfs ~/models.store
  modelfs mount ~/models.store ~/models
  cp *.safetensors ~/models && modelfs stats ~/models
  modelfs umount ~/models

\b
Exit codes:
  0    done
  1    failed; one line on stderr says why and what to do
  2    wrong usage
  130  interrupted with Ctrl-C
  fsck has those of fsck(8): 0 sound, 1 repaired, 4 damaged, 8 could not check,
  16 wrong usage; scrub too has 4 for damaged
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


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"modelfs {_version()}")
        ctx.exit()


def _version() -> str:
    try:
        return metadata.version("modelfs")
    except metadata.PackageNotFoundError:
        return "(not installed, running from its source)"


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
    """Keep machine-learning models in a file system that stores each distinct tensor once.

    A STORE is a folder that holds everything; `mount` shows its files at a MOUNTPOINT.
    """
    logs.of_command()


def main() -> None:
    """Run the command line and end the process with its exit code."""
    code = run(sys.argv[1:])
    # Python is slow to end; Ctrl-C meanwhile must not show where it was.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; what went wrong is one line on stderr."""
    try:
        code = cli.main(list(arguments), prog_name="modelfs", standalone_mode=False)
    except NoArgsIsHelpError as exc:
        click.echo(exc.format_message(), err=True)
        return Code.USAGE
    except click.UsageError as exc:
        return _refuse(exc)
    except (click.Abort, KeyboardInterrupt):
        return Code.INTERRUPTED
    except EXPECTED as exc:
        return _fail(exc)
    except Exception as exc:
        if os.environ.get("MODELFS_DEBUG"):
            raise
        return _fail(exc)
    return code if isinstance(code, int) else Code.OK


def _fail(exc: Exception) -> int:
    click.echo(f"modelfs: {describe(exc)}", err=True)
    return exc.code if isinstance(exc, Failure) else Code.FAILED


def _refuse(exc: click.UsageError) -> int:
    command = "modelfs" if exc.ctx is None else exc.ctx.command_path
    message = exc.format_message().rstrip(".")
    click.echo(f"modelfs: {plain(' '.join(message.split()))}; see `{command} --help`", err=True)
    return Code.FSCK_USAGE if command == "modelfs fsck" else Code.USAGE

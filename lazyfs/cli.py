"""The command `lazyfs`: `lazyfs MOUNT --root DIR` mounts, the other commands speak to a mount."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import click

from lazyfs import mount as mounting
from lazyfs.client import Client
from lazyfs.config import Config, load_config
from lazyfs.daemon import Settings, daemonize, run
from lazyfs.errors import LazyfsError
from lazyfs.profiles import PROFILES
from lazyfs.report import table

_UNMOUNT_DEADLINE_S = 10.0


class _Commands(click.Group):
    """A group in which anything that is not a command is a mount point: `lazyfs MOUNT ...`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None:
            args = ["mount", *args]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LazyfsError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Commands, subcommand_metavar="MOUNT --root DIR | COMMAND [ARGS]...")
@click.version_option(package_name="kifa")
def main() -> None:
    """A file system that loses power honestly.

    \b
    lazyfs MOUNT --root DIR     mount; DIR holds exactly what is synced
    lazyfs report MOUNT         what would be lost right now
    lazyfs power-loss MOUNT     lose it
    lazyfs unmount MOUNT        unmount
    """


_directory = click.Path(path_type=Path, file_okay=False)
_mount_argument = click.argument("mount_point", metavar="MOUNT", type=_directory)
_socket_option = click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    help="Control socket.  [default: found from MOUNT]",
)


@main.command("mount", hidden=True)
@_mount_argument
@click.option("--root", required=True, type=_directory, help="Directory with the synced state.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="TOML file.")
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    help="What survives a power loss.  [default: lazyfs]",
)
@click.option("--seed", type=int, help="For the choices of the first power loss.  [default: 0]")
@_socket_option
@click.option("--replace", is_flag=True, help="Remove a stale mount of a killed process first.")
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground.")
@click.option("--log", type=click.Path(path_type=Path, dir_okay=False), help="Messages go here.")
def mount_command(
    mount_point: Path,
    root: Path,
    config: Path | None,
    profile: str | None,
    seed: int | None,
    socket_path: Path | None,
    replace: bool,
    foreground: bool,
    log: Path | None,
) -> None:
    """Mount at MOUNT what is in a directory, and keep there only what is synced."""
    loaded = load_config(config) if config is not None else Config()
    settings = Settings(
        mount_point.absolute(), root.absolute(), loaded, profile, seed, socket_path, replace
    )
    log = log or loaded.logfile
    if foreground:
        logging.basicConfig(filename=log, format="%(asctime)s %(message)s")
        run(settings, lambda: click.echo(f"mounted {mount_point}; control {settings.socket_path}"))
    else:
        logging.basicConfig(format="%(asctime)s %(message)s")
        pid = daemonize(settings, log.absolute() if log else None)
        click.echo(f"mounted {mount_point}; process {pid}; control {settings.socket_path}")


@main.command()
@_mount_argument
def unmount(mount_point: Path) -> None:
    """Unmount, and wait until the mount's process has ended.

    What is not synced is lost, as it is when the power is cut.
    """
    pid = _serving_pid(mount_point)
    mounting.unmount(mount_point)
    deadline = time.monotonic() + _UNMOUNT_DEADLINE_S
    while pid is not None and _is_running(pid):
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"{mount_point}: unmounted, but files on it are still open in some program"
            )
        time.sleep(0.002)


def _serving_pid(mount_point: Path) -> int | None:
    try:
        with Client(mount_point) as client:
            return int(client.command("status")["pid"])
    except LazyfsError:
        return None  # a stale mount, or one with a socket elsewhere


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@main.command()
@_mount_argument
@_socket_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def report(mount_point: Path, socket_path: Path | None, as_json: bool) -> None:
    """Show what would be lost right now."""
    with Client(mount_point, socket_path) as client:
        answer = client.command("report")
    click.echo(json.dumps(answer) if as_json else table(answer))


@main.command("power-loss")
@_mount_argument
@_socket_option
@click.option("--seed", type=int, help="For the choices of this power loss.")
def power_loss(mount_point: Path, socket_path: Path | None, seed: int | None) -> None:
    """Cut the power: what the profile does not let survive is gone."""
    arguments = {} if seed is None else {"seed": seed}
    with Client(mount_point, socket_path) as client:
        answer = client.command("power-loss", **arguments)
    click.echo(
        f"power lost (seed {answer['seed']}): "
        f"{answer['data_ops_lost']} of {answer['data_ops_pending']} operations on "
        f"{answer['files_changed']} files and {answer['name_ops_lost']} of "
        f"{answer['name_ops_pending']} operations on names are gone"
    )


@main.command()
@_mount_argument
@click.argument("command")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@_socket_option
def control(
    mount_point: Path, command: str, arguments: tuple[str, ...], socket_path: Path | None
) -> None:
    """Send any command to a mount and print the answer as JSON.

    A value is JSON, or else text: lazyfs control MOUNT fail op=fdatasync nth=3 errno=EIO
    """
    values: dict[str, Any] = {}
    for item in arguments:
        key, found, text = item.partition("=")
        if not found:
            raise click.UsageError(f"{item!r}: write KEY=VALUE")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    with Client(mount_point, socket_path) as client:
        click.echo(json.dumps(client.command(command, **values)))


@main.command()
def profiles() -> None:
    """List the profiles and what each promises."""
    for profile in PROFILES.values():
        click.echo(click.wrap_text(f"{profile.name}: {profile.contract}", 88, "", "    "))

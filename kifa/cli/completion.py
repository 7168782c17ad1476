"""``kifa completion``: the completion script of a shell."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL; for bash: eval "$(kifa completion bash)"."""
    from click.shell_completion import get_completion_class

    from kifa.cli import cli

    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(cli, {}, "kifa", "_KIFA_COMPLETE").source())

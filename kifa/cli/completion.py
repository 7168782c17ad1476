"""``kifa completion``: the completion script of a shell."""

from __future__ import annotations


def run(shell: str) -> None:
    """Print the completion script of SHELL; for bash: eval "$(kifa completion bash)"."""
    from click.shell_completion import get_completion_class

    from kifa.cli import COMPLETION_VARIABLE
    from kifa.cli._explained import cli
    from kifa.cli._output import say

    script = get_completion_class(shell)
    assert script is not None
    say(script(cli, {}, "kifa", COMPLETION_VARIABLE).source() + "\n")

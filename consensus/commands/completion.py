"""``raft completion``: what a shell needs to complete the words after ``raft``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

#: What click listens to for a program of this name.
_VARIABLE = "_RAFT_COMPLETE"


@click.command(
    epilog='For this shell: eval "$(raft completion bash)"; for all: write that'
    " into ~/.bashrc."
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """
    Print what lets SHELL complete commands, options and names of members.

    The names are those of the config that the line names.
    """
    completes = get_completion_class(shell)
    if completes is None:
        message = f"click knows no {shell}"
        raise click.ClickException(message)
    click.echo(completes(ctx.find_root().command, {}, "raft", _VARIABLE).source())


COMMANDS = (completion,)

"""`milepost completion`: the completion scripts of shells."""

import click
from click.shell_completion import get_completion_class

COMPLETE_VARIABLE = "_MILEPOST_COMPLETE"

# click's own splits words where bash does, which is at the colons of streams as well. This one passes on the line as it
# is, and takes what precedes the last colon off the answers again, because bash keeps that.
BASH = f"""\
_milepost_completion() {{
    local line=${{COMP_LINE:0:COMP_POINT}} words current kept="" completion type value
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${{words[-1]}}
    [[ $current == *:* && $COMP_WORDBREAKS == *:* ]] && kept=${{current%"${{current##*:}}"}}
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${{value#"$kept"}}") ;;
        esac
    done < <(env COMP_WORDS="$line" COMP_CWORD=$((${{#words[@]}} - 1)) {COMPLETE_VARIABLE}=bash_complete "$1")
}}
complete -o nosort -F _milepost_completion milepost
"""


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Write the completion script for a shell to stdout: commands, options, and the streams that exist.

    For bash, `eval "$(milepost completion bash)"` in ~/.bashrc loads it; for zsh, `eval "$(milepost completion zsh)"`
    in ~/.zshrc after compinit; for fish, write it to ~/.config/fish/completions/milepost.fish.
    """
    click.echo(BASH if shell == "bash" else _script_of_click(shell), nl=False)


def _script_of_click(shell: str) -> str:
    # Imported here, because it imports this module by its name.
    from milepost.cli import cli  # noqa: PLC0415

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  (one of those that click knows)
    return kind(cli, {}, "milepost", COMPLETE_VARIABLE).source()

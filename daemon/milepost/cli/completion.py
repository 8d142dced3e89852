"""`milepost completion`: the completion scripts of shells."""

import click
from click.shell_completion import FishComplete, ZshComplete

COMPLETE_VARIABLE = "_MILEPOST_COMPLETE"

# click's own script splits words where bash does, and so at the colons of streams as well. This one passes on the line
# as it is, and removes from each answer what precedes the last colon, because bash keeps that part.
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
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Write the completion script for a shell to stdout: commands, options, and the streams that exist.

    For bash, `eval "$(milepost completion bash)"` in ~/.bashrc loads it; for zsh, `eval "$(milepost completion zsh)"`
    in ~/.zshrc after compinit; for fish, write it to ~/.config/fish/completions/milepost.fish.
    """
    if shell == "bash":
        script = BASH
    else:
        of_click = ZshComplete if shell == "zsh" else FishComplete
        script = of_click(context.find_root().command, {}, "milepost", COMPLETE_VARIABLE).source()
    click.echo(script, nl=False)

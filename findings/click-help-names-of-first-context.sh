#!/usr/bin/env bash
# Expected: the names of a command's help option are those of the context it is invoked in ("help_option_names"), so that
#   a subcommand takes -h wherever its group's context settings say so.
# Happens: click 8.5.1 makes the help option once, from the first context that asks for it, and keeps it with the
#   command. A look at a command before that, in a context without its group (to list its options, to check arguments
#   in a document), leaves it without -h for the rest of the process: "No such option: -h". After a look in a context
#   with the parent, both work.
# Source: seen by this script; Command.get_help_option ("now cached", since 8.1.8), Context.help_option_names.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check click==8.5.1
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import click
from click.testing import CliRunner

SETTINGS = {"help_option_names": ["-h", "--help"]}


def exit_code(look: str) -> int:
    group = click.Group("tool", context_settings=SETTINGS, commands={"run": click.Command("run")})
    run = group.commands["run"]
    if look == "in a context of its own":
        run.get_params(click.Context(run))
    if look == "in a context with its parent":
        run.get_params(click.Context(run, parent=click.Context(group, **SETTINGS)))
    code = CliRunner().invoke(group, ["run", "-h"]).exit_code
    print(f"tool run -h, after a look at its options {look}: exit code {code}")
    return code


print("click", version("click"))
codes = [exit_code(look) for look in ("not at all", "in a context of its own", "in a context with its parent")]
if codes != [0, 2, 0]:
    raise SystemExit("  changed: expected the exit codes 0, 2 and 0")
PY

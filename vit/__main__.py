"""The `vitral` command: `vitral train | eval | predict | embed | models | convert | gather | replay | data ...`.

Exit codes: 0 done; 1 done in part (images that cannot be read, errors that a check has found); 2 a mistake in the
command, the checkpoint or the data. A command's module is imported when it is called, and torch only once there is
something to compute, so that help and mistakes answer at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from vit.commands.cli.table import COMMANDS, overview
from vit.commands.exit import run

GROUPS = {name.split()[0] for name in COMMANDS if " " in name}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `vitral`."""
    run(lambda: command(sys.argv[1:] if arguments is None else arguments))


def command(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Raises UserError for a command that does not exist."""
    group = arguments[0] if arguments and arguments[0] in GROUPS else ""
    words = list(arguments[1:] if group else arguments)
    if not words:
        print(overview(group), file=sys.stderr)
        return 2
    if words[0] in ("-h", "--help"):
        print(overview(group))
        return 0
    if words[0] in ("-V", "--version") and not group:
        from vit.version import version

        print(f"vitral {version()}")
        return 0
    name = " ".join(filter(None, [group, words[0]]))
    if name not in COMMANDS:
        from vit.commands.cli import elsewhere

        raise elsewhere.unknown(words, group)
    return importlib.import_module(COMMANDS[name].module).main(words[1:]) or 0


if __name__ == "__main__":
    main()

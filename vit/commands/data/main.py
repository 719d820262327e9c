"""`vitral data COMMAND [ARGUMENTS]`; each command is a module of its own, loaded when it is called."""

from __future__ import annotations

import importlib

from vit.errors import UserError, nearest

COMMANDS = {
    "check": "what is wrong with a data set, before a GPU hour is spent on it",
    "convert": "write the same images, labels and boxes in another format",
    "list": "the public data sets that --data knows by name",
    "pack": "write tar shards from any data",
    "show": "a picture of the training images as the model will see them",
    "split": "divide a data set into train, val and test",
}
"""NAME -> what it does. `vit.commands.data.NAME` has `main(arguments)`, which returns the exit code (None is 0)."""


def main(arguments: list[str]) -> int | None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("vitral data COMMAND [ARGUMENTS]; vitral data COMMAND --help\n")
        for name, told in COMMANDS.items():
            print(f"  {name:<8} {told}")
        return None
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}.{nearest(name, COMMANDS)} There are {', '.join(COMMANDS)}.")
    return importlib.import_module(f"vit.commands.data.{name}").main(rest)

"""The `vitral` command: `vitral predict CHECKPOINT IMAGE|FOLDER|VIDEO...`, `vitral embed`, `vitral models`,
`vitral convert`, `vitral gather`.

Exit codes of predict and embed: 0 every image has an answer, 1 some could not be read (each is named, the others are
answered), 2 there is no answer: a mistake in the command, in the checkpoint or in every image.

Training and evaluation need `datasets/`, which stays out of the wheel: they are `train.py` and `eval.py` in the
repository. torch is imported only once there is something to predict, so that help and mistakes answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from vit.command import run
from vit.embed import Embed
from vit.errors import UserError, nearest, shown
from vit.predict_command import Predict
from vit.pretrained.commands import Convert, Models
from vit.sharding import Gather

COMMANDS = {"predict": Predict, "embed": Embed, "models": Models, "convert": Convert, "gather": Gather}


def main() -> None:
    """Entry point of `vitral`."""
    run(lambda: command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in ("--version", "-V"):
        import vit

        print(f"vitral {vit.__version__}")
        return 0
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        where = " train.py and eval.py, in the repository, train and evaluate."
        raise UserError(
            f"vitral has no command {arguments[0]!r}.{nearest(arguments[0], COMMANDS)} "
            f"Commands: {shown(list(COMMANDS))}.{where if arguments[0] in ('train', 'eval') else ''}"
        )
    parsed = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="vitral",
        description="Vision Transformers: label images or find objects in them with a trained checkpoint, save their "
        "features, list and convert public weights, make one file of a sharded checkpoint. vitral --version prints the "
        "version.",
        args=list(arguments),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return parsed.run()


if __name__ == "__main__":
    main()

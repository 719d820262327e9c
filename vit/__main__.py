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

from vit.commands.embed import Embed
from vit.commands.exit import run
from vit.commands.gather import Gather
from vit.commands.models import Convert, Models
from vit.commands.predict import Predict
from vit.errors import UserError, nearest, shown

COMMANDS = {"predict": Predict, "embed": Embed, "models": Models, "convert": Convert, "gather": Gather}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `vitral`."""
    run(lambda: command(sys.argv[1:] if arguments is None else arguments))


def command(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in ("--version", "-V"):
        import vit

        print(f"vitral {vit.__version__}")
        return 0
    if (
        arguments
        and not arguments[0].startswith("-")
        and arguments[0] not in (*COMMANDS, "data", "replay", "train", "eval")
    ):
        raise UserError(
            f"vitral has no command {arguments[0]!r}.{nearest(arguments[0], COMMANDS)} "
            f"Commands: {shown(list(COMMANDS))}."
        )
    if arguments and arguments[0] == "train":
        from vit.commands.train import main as train

        train(arguments[1:])
        return 0
    if arguments and arguments[0] == "eval":
        from vit.commands.eval import Evaluate
        from vit.commands.eval import main as evaluate

        evaluate(tyro.cli(Evaluate, prog="vitral eval", args=arguments[1:], config=(tyro.conf.FlagCreatePairsOff,)))
        return 0
    if arguments and arguments[0] == "data":
        from vit.commands.data.main import main as data

        return data(list(arguments[1:])) or 0
    if arguments and arguments[0] == "replay":
        from vit.commands.replay import main as replay

        replay(arguments[1:])
        return 0
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

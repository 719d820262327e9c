"""The `vitral` command: `vitral predict CHECKPOINT IMAGE|FOLDER...`, `vitral embed`, `vitral models`, `vitral convert`.

Exit codes of predict and embed: 0 every image has an answer, 1 some could not be read (each is named, the others are
answered), 2 there is no answer: a mistake in the command, in the checkpoint or in every image.

Training and evaluation need `datasets/`, which stays out of the wheel: they are `train.py` and `eval.py` in the
repository. torch is imported only once there is something to predict, so that help and mistakes answer at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from vit.command import run
from vit.embed import Embed
from vit.errors import UserError, nearest, shown
from vit.pretrained.commands import Convert, Models

if TYPE_CHECKING:
    from vit.predict import Prediction


@dataclass(frozen=True)
class Predict:
    """Label images with a trained checkpoint.

    Exit code 1 when some images could not be read, 2 when none could or the command is mistaken."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint folder, or a run folder of train.py (its best checkpoint)."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE|FOLDER...")]
    """Image files, and folders to look for them in, with everything below."""
    top: int = 5
    """How many classes to show for an image."""
    json: bool = False
    """A JSON list, one object a line, instead of text."""
    threshold: float = 0.5
    """Multi-label checkpoints: the score above which a label counts as present."""
    batch_size: int = 32
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""


COMMANDS = {"predict": Predict, "embed": Embed, "models": Models, "convert": Convert}


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
        description="Vision Transformers: label images, save their features, list and convert public weights. "
        "vitral --version prints the version.",
        args=list(arguments),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return predict(parsed) if isinstance(parsed, Predict) else parsed.run()


def predict(args: Predict) -> int:
    if args.top < 1 or args.batch_size < 1:
        raise UserError("--top and --batch-size must be at least 1.")
    from vit.files import exit_code, find_images

    files = find_images(args.images)  # before torch: a misspelt path is told at once

    from vit.predict import Unreadable, load

    predictor = load(args.checkpoint, args.device, threshold=args.threshold)
    results = predictor.stream(files, batch_size=args.batch_size)
    unreadable = 0
    for position, result in enumerate(results):
        failed = isinstance(result, Unreadable)
        unreadable += failed
        if failed:
            print(f"error: {result.reason}", file=sys.stderr)
        if args.json:
            values = result.to_dict() if failed else result.to_dict(args.top)
            print(",\n" if position else "[", json.dumps(values, ensure_ascii=False), sep="", end="")
        elif not failed:
            print(_line(result, args.top))
    if args.json:
        print("\n]")
    return exit_code(unreadable, len(files))


def _line(result: Prediction, top: int) -> str:
    scored = ", ".join(f"{label} {100 * score:.2f} %" for label, score in result.top(top))
    if result.multilabel:
        return f"{result.source}: [{', '.join(result.labels)}] {scored}"
    return f"{result.source}: {scored}"


if __name__ == "__main__":
    main()

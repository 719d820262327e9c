"""`vitral replay RUN STEP`: repeat a step that was skipped because its loss or gradient was not finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml

from vit.commands.cli.fields import Positional
from vit.commands.cli.options import parse
from vit.errors import UserError, shown

if TYPE_CHECKING:
    from vit.tasks.run import Parts


def main(arguments: Sequence[str]) -> None:
    parse(Replay, arguments, "vitral replay").run()


@dataclass(frozen=True)
class Replay:
    """Repeat a training step that was left out because its loss or gradient was not finite, and say where that begins.

    Nothing is written."""

    run_folder: Annotated[str, Positional("RUN")]
    """A run folder. The steps that were left out are in its folder nonfinite."""
    step: Annotated[int, Positional("STEP")]
    """Number of the step, as the log names it."""

    def run(self) -> None:
        folder = Path(self.run_folder)
        place = folder / "nonfinite" / f"step-{self.step}"
        if not (place / "trainer.pt").is_file():
            known = sorted(path.parent.name for path in folder.glob("nonfinite/*/trainer.pt"))
            raise UserError(f"{folder} has not kept step {self.step}; it has {shown(known) if known else 'none'}.")
        print(*replay(folder, place, self.step), sep="\n")


def replay(folder: Path, place: Path, step: int) -> list[str]:
    """Lines that report where the step became non-finite."""
    import torch

    from vit.runs.checkpoint import load_trainer
    from vit.training.replay import examine

    parts = parts_of(folder)
    parts.task.model.load_state_dict(load_trainer(place)["model"])
    batch = next(iter(parts.batches.starting_at(step)))
    torch.manual_seed(parts.loop.step_seed(step))
    return examine(parts.task, batch, parts.loop.amp)


def parts_of(folder: Path) -> Parts:
    """The parts of a run's training loop, from its first step on."""
    from vit.runs.folder import read_recipe
    from vit.tasks.table import task_of_recipe
    from vit.training.parts import assemble
    from vit.training.run import prepare

    name = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["recipe"]
    row = task_of_recipe(name)
    kind = type(row.part("recipe").RECIPES[name][1])
    recipe: Any = replace(read_recipe(folder, kind), out=str(folder), workers=0, minutes=None)
    made = assemble(row, prepare(row, recipe, quiet=True))
    if made.feed.once:
        raise UserError("This run trains a head on features: look at its learning rate.")
    made.parts.task.model.train()
    return made.parts

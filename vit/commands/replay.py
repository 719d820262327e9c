"""`vitral replay RUN STEP`: repeat a step that was left out because its loss or gradient was not finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import yaml

from vit.commands.cli.options import Positional, parse
from vit.errors import UserError, shown
from vit.tasks.classification.recipe import Recipe
from vit.tasks.detection.recipe import DETECTION_RECIPES, DetectionRecipe


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
    """What was found out about the step; lines for the screen."""
    import torch

    from vit.runs.checkpoint import load_trainer
    from vit.training.replay import examine

    task, batches, loop = parts_of(folder, step)
    state = load_trainer(place)
    task.model.load_state_dict(state["model"])
    batch = next(iter(batches.starting_at(step)))
    torch.manual_seed(loop.step_seed(step))
    return examine(task, batch, loop.amp)


def parts_of(folder: Path, step: int) -> tuple[Any, Any, Any]:
    """Task, batches and loop of a run."""
    from vit.predict.predictor import pick_device
    from vit.runs.folder import read_recipe

    name = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["recipe"]
    kind = DetectionRecipe if name in DETECTION_RECIPES else Recipe
    recipe: Any = replace(read_recipe(folder, kind), out=str(folder), workers=0)
    device = pick_device(recipe.device)
    from vit.data import survey
    from vit.tasks.classification.settle import Facts

    if kind is Recipe:
        from vit.data import open_data
        from vit.training.parts import assemble

        data = open_data(recipe.data, seed=recipe.seed, format=recipe.format)
        facts = Facts(len(data.train), len(data.classes), *survey(data.train))
        parts = assemble(recipe, data, facts, device)
        parts.model.train()
        if parts.once:
            raise UserError("this run trains a head on features: look at its learning rate.")
        return parts.task, parts.batches, parts.loop
    from vit.data.open_detection import open_detection
    from vit.tasks.detection.build import begin_detector
    from vit.training import detector_parts as train_detector_parts

    data = open_detection(recipe.data, seed=recipe.seed, format=recipe.format)
    facts = Facts(len(data.train), len(data.classes), *survey(data.train))
    parts = train_detector_parts.assemble(recipe, data, facts, begin_detector(recipe), device)
    parts.model.train()
    return parts.task, parts.batches, parts.loop

"""The commands of `vitral`: name, module and purpose."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    module: str
    """Has `main(arguments)`, which returns the exit code (None is 0); imported when the command is called."""
    about: str


COMMANDS = {
    "train": Command("vit.commands.train", "Train an image classifier or an object detector."),
    "eval": Command("vit.commands.eval", "Evaluate a checkpoint on data with known labels or boxes."),
    "predict": Command("vit.commands.predict", "Label images, or find objects in them."),
    "embed": Command("vit.commands.embed", "Save the features of images."),
    "models": Command("vit.commands.models", "List the models whose public weights can be loaded."),
    "convert": Command("vit.commands.convert", "Write a checkpoint as a file of timm, Hugging Face or torchvision."),
    "gather": Command("vit.commands.gather", "Merge a sharded checkpoint into one file."),
    "replay": Command("vit.commands.replay", "Repeat a step whose loss was not finite and find out where it began."),
    "data check": Command("vit.commands.data.check", "Find what is wrong with a data set before you train on it."),
    "data split": Command("vit.commands.data.split", "Divide a data set into train, val and test."),
    "data pack": Command("vit.commands.data.pack", "Write a data set as tar shards."),
    "data convert": Command("vit.commands.data.convert", "Write a data set in another format."),
    "data show": Command("vit.commands.data.show", "Draw training images as the model will see them."),
    "data list": Command("vit.commands.data.list", "List the data sets that --data knows by name."),
}
"""Keyed by the words typed after `vitral`."""


def overview(group: str = "") -> str:
    """The commands that begin with the word `group`, or all commands, one per line."""
    names = [name for name in COMMANDS if name.split()[0] == group or not group]
    start = " ".join(filter(None, ["vitral", group]))
    width = max(map(len, names)) + 2
    rows = [f"  {name:<{width}}{COMMANDS[name].about}" for name in names]
    lines = [f"Usage: {start} COMMAND [options]", "", *rows, "", f"{start} COMMAND --help lists a command's options."]
    if not group:
        lines[1:1] = ["", "Vision Transformers for image classification and object detection."]
        lines.append("vitral --version prints the version.")
    return "\n".join(lines)

"""What a run of regression trains: a plain ViT with one output."""

from tests.regression.task import Regression
from vit.images.preprocess import Preprocess
from vit.model.depth import in_blocks as by_muon
from vit.pretrained.create import create
from vit.tasks.run import Built

__all__ = ["begin", "build", "build_task", "by_muon", "checkpoint_config", "prepare"]


def begin(recipe):
    return None


def build(recipe, data, facts, start):
    side = recipe.image_size
    model = create(recipe.model, num_classes=1, image_size=side, width=32, depth=1, heads=2, mlp=64)
    return Built(model, Preprocess((side, side), resize="squash", mean=facts.mean, std=facts.std), recipe.model)


def build_task(recipe, built, data):
    return Regression(built.model, recipe.beta)


def checkpoint_config(task, preprocess, data, flip):
    model = task.model.config.to_dict()
    return {
        "task": "regression", "model": model, "classes": ["value"], "preprocess": preprocess.to_dict(), "data": data
    }  # fmt: skip


def prepare(run, parts, feed, folder):
    pass

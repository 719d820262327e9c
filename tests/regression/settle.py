"""What a recipe of regression leaves open."""

from dataclasses import replace

TRIAL_BATCH = 8


def settle(recipe, facts, start):
    chosen = {
        "model": "vit_nano8", "epochs": 10, "batch_size": 16, "lr": 1e-3, "optimizer": "adamw", "weight_decay": 0.05,
        "layer_decay": 1.0, "warmup": 1.0, "ema": 0.0, "eval_every": 1, "workers": 0,
    }  # fmt: skip
    open_fields = {name: value for name, value in chosen.items() if getattr(recipe, name) is None}
    return replace(recipe, **open_fields), [f"{facts.images} training images with a number each"]


def largest(recipe, start):
    return recipe

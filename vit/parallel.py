"""A task whose model is spread over the processes of a run."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vit.distributed import World
from vit.tasks import Task


def spread(task: Task, world: World) -> Task:
    """The task to train, with the same parameters: each process has all of the model and a part of each batch, and the
    gradients are averaged. Evaluation goes on with `task` itself."""
    if world.size == 1:
        return task
    device = next(task.model.parameters()).device
    if device.type == "cuda":
        # Elsewhere torch has none: each process then normalises by its own images.
        nn.SyncBatchNorm.convert_sync_batchnorm(task.model)
    learner = copy.copy(task)
    learner.model = DistributedDataParallel(
        task.model,
        device_ids=[device.index or 0] if device.type == "cuda" else None,
        find_unused_parameters=not task.steady,
    )
    return learner

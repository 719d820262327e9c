"""Distribute a model over the processes of a run: by copies (DistributedDataParallel) or shards (FSDP2)."""

from __future__ import annotations

import copy
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from vit.model.layers import Block
from vit.processes.world import World
from vit.tasks.task import Task

Parallel = Literal["ddp", "fsdp"]


def recompute(model: nn.Module) -> None:
    """Store only each block's input, and recompute its activations in the backward pass (Chen et al. 2016): about a
    third more time, for the activation memory of one block. Results are the same."""
    for block in _blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def shard(model: nn.Module, world: World, amp: torch.dtype | None) -> None:
    """FSDP2: each process holds a shard of every parameter; a Block's are gathered while it computes. Call it before
    the optimizers are created, with the same weights in every process. amp: the dtype in which parameters are sent and
    used; gradients are summed in float32."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=amp, reduce_dtype=torch.float32) if amp else MixedPrecisionPolicy()
    for block in _blocks(model):
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)


def spread(task: Task, world: World) -> Task:
    """The task to train, with the same parameters: each process has the whole model and a share of each batch, and
    gradients are averaged. Evaluation uses `task` itself."""
    if world.size == 1 or world.sharded:
        return task
    device = next(task.model.parameters()).device
    if device.type == "cuda":
        # CUDA only: elsewhere each process normalizes by its own images.
        nn.SyncBatchNorm.convert_sync_batchnorm(task.model)
    learner = copy.copy(task)
    learner.model = DistributedDataParallel(
        task.model,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=not task.steady,
    )
    return learner


def _blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]

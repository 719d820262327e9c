"""Several processes are one: gradients, metrics, order, checkpoints (rows 41, 52, 53), over gloo."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.ranks import run_ranks

SIZES = {"width": 16, "heads": 2, "mlp": 32, "depth": 2}


def classifier():
    import vit
    from vit.losses import ClassificationLoss
    from vit.tasks import Classification

    torch.manual_seed(0)
    model = vit.create("vit_nano4", num_classes=10, image_size=28, **SIZES)
    weights = torch.linspace(0.2, 2.0, 10)
    loss = ClassificationLoss(10, class_weights=weights, label_smoothing=0.1, l1=1e-4)
    return Classification(model, [str(i) for i in range(10)], loss)


def detector(classes=3):
    from vit.config import EncoderConfig
    from vit.detection import Detection
    from vit.detection_losses import DetectionLoss
    from vit.detector import Detector, DetectorConfig

    torch.manual_seed(0)
    encoder = EncoderConfig(32, 1, 2, 64, patch_size=8, image_size=(64, 64), class_token=False, final_norm=False)
    head = {"layers": 2, "heads": 2, "sampling_heads": 2, "points": 2, "mlp": 32, "queries": 12, "groups": 2}
    model = Detector(DetectorConfig(encoder, num_classes=classes, taps=(1,), neck_blocks=1, width=32, **head))
    return Detection(model, "abcdefghij"[:classes], DetectionLoss(classes), (64, 64))


def pictures(n, objects=()):
    """A global batch: images and, with `objects`, as many boxes an image; else classes."""
    generator = torch.Generator().manual_seed(1)
    if not objects:
        images = torch.randn(n, 3, 28, 28, generator=generator)
        return SimpleNamespace(images=images, targets=torch.arange(n) % 10, index=torch.arange(n))
    images, targets = torch.randn(n, 3, 64, 64, generator=generator), []
    for count in objects:
        center = torch.rand(count, 2, generator=generator) * 0.6 + 0.2
        boxes = torch.cat([center, torch.rand(count, 2, generator=generator) * 0.2 + 0.1], 1)
        labels = torch.randint(3, (count,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels, "crowd": torch.zeros(count, dtype=torch.bool)})
    return SimpleNamespace(images=images, targets=targets, index=torch.arange(n))


def mine(batch, world):
    rows = slice(world.rank, None, world.size)
    return SimpleNamespace(images=batch.images[rows], targets=batch.targets[rows], index=batch.index[rows])


CASES = {
    "classification": (classifier, pictures(7), 1),
    "classification, in parts": (classifier, pictures(7), 2),
    "detection": (detector, pictures(5, (3, 0, 2, 1, 0)), 1),
    "detection, in parts": (detector, pictures(5, (3, 0, 2, 1, 0)), 2),
    "detection, nothing on one": (detector, pictures(5, (0, 2, 0, 3, 0)), 1),
    "detection, nothing at all": (detector, pictures(5, (0, 0, 0, 0, 0)), 1),
}


def one_step_and_an_evaluation(place):
    from vit.distributed import join, leave
    from vit.engine import evaluate
    from vit.loop import Loop
    from vit.parallel import spread
    from vit.step import train_step

    world, found = join("cpu"), {}
    for name, (made, batch, parts) in CASES.items():
        task = made()
        task.model.train()
        for module in task.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()  # torch has no common statistics on a CPU
        rule = [torch.optim.SGD(task.model.parameters(), lr=1.0)]
        torch.manual_seed(0)
        loss = train_step(spread(task, world), mine(batch, world), rule, Loop(1, 1, accumulate=parts), None, world)
        found[name] = {"loss": loss, "weights": {k: v.clone() for k, v in task.model.state_dict().items()}}
    found["top1"] = evaluate(classifier(), digits_of(world), world=world).compute()
    found["map"] = evaluate(detector(10), scenes_of(world), world=world).compute()
    # A step that is not finite in one process is left out by all.
    task, batch = classifier(), pictures(7)
    batch.images[world.size - 1] = float("inf")
    rule = [torch.optim.SGD(task.model.parameters(), lr=1.0)]
    loss = train_step(spread(task, world), mine(batch, world), rule, Loop(1, 1), None, world)
    same = classifier().model.state_dict()
    assert not loss.isfinite() and all(torch.equal(v, same[k]) for k, v in task.model.state_dict().items())
    torch.save(found, f"{place}/{world.size}-{world.rank}.pt")
    leave()


def digits_of(world):
    """70 digits in batches of 16: 5, which neither 2 nor 3 processes can share evenly."""
    from datasets import eval_loader, open_data
    from vit.image import Preprocess

    images = open_data("digits").val.select(np.arange(70))
    preprocess = Preprocess((28, 28), resize="squash", mean=(0.1,) * 3, std=(0.3,) * 3)
    return eval_loader(images, preprocess, batch_size=16, rank=world.rank, world=world.size)


def scenes_of(world):
    from datasets import scenes
    from datasets.box_loader import box_eval_loader
    from datasets.open_detection import open_detection
    from vit.image import Preprocess

    scenes.COUNTS = {"train": 1, "val": 7, "test": 1}
    data, preprocess = open_detection("scenes"), Preprocess((64, 64), resize="squash", interpolation="bilinear")
    return box_eval_loader(data.val, preprocess, batch_size=2, rank=world.rank, world=world.size)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    place = tmp_path_factory.mktemp("ranks")
    run_ranks(one_step_and_an_evaluation, place, [1, 2, 3])
    return {
        size: [torch.load(place / f"{size}-{rank}.pt", weights_only=False) for rank in range(size)]
        for size in (1, 2, 3)
    }


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_several_processes_is_that_of_one(processes, size, case):
    (whole,) = processes[1]
    for found in processes[size]:
        torch.testing.assert_close(found[case]["loss"], whole[case]["loss"], rtol=1e-6, atol=1e-6)
        for name, value in whole[case]["weights"].items():  # of a step of SGD at rate 1
            torch.testing.assert_close(found[case]["weights"][name], value, rtol=1e-6, atol=1e-6, msg=name)
    first, *others = processes[size]
    for found in others:
        assert all(torch.equal(v, first[case]["weights"][k]) for k, v in found[case]["weights"].items())


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("figures", ["top1", "map"])
def test_row_52_the_figures_of_several_processes_are_exactly_those_of_one(processes, size, figures):
    (whole,) = processes[1]
    assert whole[figures]["n"] == (70 if figures == "top1" else 7)
    for found in processes[size]:
        assert found[figures] == whole[figures]

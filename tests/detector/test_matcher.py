import itertools

import torch

from vit.tasks.detection.matcher import Matcher


def problem(queries: int, objects: list[int], classes: int = 4, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(objects), queries, classes, generator=g)
    boxes = torch.rand(len(objects), queries, 4, generator=g) * 0.4 + 0.1
    targets = [
        {"labels": torch.randint(classes, (n,), generator=g), "boxes": torch.rand(n, 4, generator=g) * 0.4 + 0.1}
        for n in objects
    ]
    return logits, boxes, targets


def test_no_assignment_is_cheaper():
    matcher = Matcher()
    logits, boxes, targets = problem(5, [3])
    cost = matcher.cost(logits[0], boxes[0], targets[0]["labels"], targets[0]["boxes"])
    found = matcher(logits, boxes, targets)
    mine = cost[found.query, found.target].sum()
    best = min(cost[list(order), range(3)].sum() for order in itertools.permutations(range(5), 3))
    assert torch.isclose(mine, best)


def test_each_group_is_matched_by_itself():
    logits, boxes, targets = problem(6, [2, 0, 3])
    both = Matcher()(logits, boxes, targets, groups=2)
    for g in range(2):
        part = slice(3 * g, 3 * g + 3)
        alone = Matcher()(logits[:, part], boxes[:, part], targets)
        mine = (both.query // 3) == g
        got = sorted(zip(both.image[mine].tolist(), both.query[mine].tolist(), both.target[mine].tolist(), strict=True))
        want = zip(alone.image.tolist(), (alone.query + 3 * g).tolist(), alone.target.tolist(), strict=True)
        assert got == sorted(want)


def test_targets_are_counted_through_the_batch():
    logits, boxes, targets = problem(6, [2, 0, 3])
    found = Matcher()(logits, boxes, targets)
    assert sorted(found.target.tolist()) == [0, 1, 2, 3, 4]
    assert [found.image[found.target == t].item() for t in range(5)] == [0, 0, 2, 2, 2]


def test_nothing_to_match():
    found = Matcher()(*problem(4, [0, 0]))
    assert len(found.image) == len(found.query) == len(found.target) == 0
    assert found.query.dtype == torch.int64


def test_more_objects_than_queries():
    found = Matcher()(*problem(4, [2000], classes=3))
    assert sorted(found.query.tolist()) == [0, 1, 2, 3]


def test_predictions_that_are_not_finite_are_matched_last():
    logits, boxes, targets = problem(4, [2])
    boxes[0, 1] = torch.nan
    logits[0, 2] = torch.inf
    boxes[0, 2] = torch.inf
    assert sorted(Matcher()(logits, boxes, targets).query.tolist()) == [0, 3]

"""Values of files against the types of dataclass fields."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pytest
import yaml

from vit.detector import PRESETS, DetectorConfig
from vit.errors import UserError
from vit.model.config import ClassifierConfig, EncoderConfig
from vit.pretrained.registry.find import MODELS
from vit.tasks.table import base_of_recipe, recipe_names
from vit.typed import build, fits, type_name


@dataclass(frozen=True)
class Sample:
    count: int
    share: float = 0.5
    kind: Literal["a", "b", 3] = "a"
    sides: tuple[int, int] = (1, 2)
    many: tuple[float, ...] = ()
    maybe: float | None = None
    flag: bool = False


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("count", [3, -3, np.int64(3)], [3.0, "3", True, None, [3]]),
        ("share", [0.5, 3, np.float32(0.5)], ["0.5", False, None, float("nan"), float("inf")]),
        ("kind", ["a", 3], ["c", 3.0, "3", None, []]),
        ("sides", [(1, 2), [1, 2]], [(1,), [1, 2, 3], 1, "12", [1.0, 2], {1: 1, 2: 2}]),
        ("many", [(), [1], (0.5, 1)], [0.5, [None], "ab"]),
        ("maybe", [None, 1, 0.5], ["none", False]),
        ("flag", [True, False], [0, 1, "no", None]),
    ],
)
def test_values_of_each_type(field, right, wrong):
    for value in right:
        assert getattr(build(Sample, {"count": 1, field: value}, "it"), field) == value
    for value in wrong:
        with pytest.raises(UserError, match=rf"^it\.{field} is .*, not "):
            build(Sample, {"count": 1, field: value}, "it")


def test_containers_of_json():
    assert fits({"a": [1, 2]}, dict[str, list[int]]) and fits({}, dict[str, Any])
    assert not fits({"a": [1, "2"]}, dict[str, list[int]]) and not fits([], dict[str, Any])
    assert not fits((1,), list[int])


def test_what_is_missing_or_too_much():
    for values, message in (
        ({}, r"it needs the field count, a whole number\."),
        ({"count": 1, "shore": 2}, r"it has no field 'shore'\. Did you mean \"share\"\?"),
        ({"count": 1, "xyz": 2}, r"it has no field 'xyz'\. Was it written by a newer vitral\?"),
        ([("count", 1)], r"it is \[\('count', 1\)\], not a table of fields and values\."),
        (None, r"it is None, not a table"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            build(Sample, values, "it")


def test_types_in_words():
    assert type_name(float | None) == "a number or null"
    assert type_name(tuple[int, int]) == "a list of 2: a whole number, a whole number"
    assert type_name(Literal["a", "b"]) == "one of 'a', 'b'"


def test_every_config_and_recipe_of_ours_is_of_its_types():
    for row in MODELS.values():
        again = ClassifierConfig.from_dict(json.loads(json.dumps(row.config.to_dict())))
        assert again == row.config
    for config in PRESETS.values():
        assert DetectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for recipe in map(base_of_recipe, recipe_names()):
        assert build(type(recipe), yaml.safe_load(yaml.safe_dump(asdict(recipe))), "it") == recipe
    assert build(EncoderConfig, {}, "it") == EncoderConfig()

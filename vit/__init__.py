"""Plain Vision Transformers that train, fine-tune, evaluate, predict and ship.

    import vit
    print(vit.load("runs/digits").predict("seven.png").label)
    print(vit.load("runs/scenes").predict("scene.png").xyxy)

Names are imported when they are first used, so that `import vit` costs nothing, not even torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vit.errors import UserError as UserError
    from vit.images.preprocess import Preprocess as Preprocess
    from vit.pretrained.create import create as create
    from vit.pretrained.registry.listing import models as models
    from vit.tasks.checkpoints import evaluate as evaluate
    from vit.tasks.checkpoints import load as load
    from vit.tasks.classification.predict import Prediction as Prediction
    from vit.tasks.classification.predict import Predictor as Predictor
    from vit.tasks.detection.detections import Detections as Detections
    from vit.tasks.detection.predict import DetectionPredictor as DetectionPredictor
    from vit.tasks.detection.scan.options import Scan as Scan
    from vit.training.run import train as train

    __version__: str

_HOMES = {
    "create": "vit.pretrained.create",
    "DetectionPredictor": "vit.tasks.detection.predict",
    "Detections": "vit.tasks.detection.detections",
    "evaluate": "vit.tasks.checkpoints",
    "load": "vit.tasks.checkpoints",
    "train": "vit.training.run",
    "models": "vit.pretrained.registry.listing",
    "Prediction": "vit.tasks.classification.predict",
    "Predictor": "vit.tasks.classification.predict",
    "Preprocess": "vit.images.preprocess",
    "Scan": "vit.tasks.detection.scan.options",
    "UserError": "vit.errors",
}
__all__ = [
    "DetectionPredictor",
    "Detections",
    "Prediction",
    "Predictor",
    "Preprocess",
    "Scan",
    "UserError",
    "__version__",
    "create",
    "evaluate",
    "load",
    "models",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from vit.version import version

        value = version()
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        from vit.errors import nearest

        raise AttributeError(f"module 'vit' has no attribute {name!r}.{nearest(name, __all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

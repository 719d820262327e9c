"""Draw training images as the model will see them.

python -m datasets show photos --out grid.png                    class folders, or boxes with COCO annotations
python -m datasets show boxes --augment strong --image-size 640  with any option of train.py

What a model sees depends on the recipe as well as on the data: the work is done in show.py, where both meet.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    import show

    show.main(arguments)

"""Tar files for tests, written by Python's tarfile."""

import io
import tarfile

import numpy as np
from PIL import Image


def picture(seed, kind="PNG", size=(6, 4)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write(path, members, form=tarfile.PAX_FORMAT):
    """A tar file of (name, bytes) or ready TarInfo members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return path


def samples(labels, first=0):
    """(name, bytes) of a picture and its .cls for each label."""
    pairs = [
        [(f"{first + i:06d}.png", picture(first + i)), (f"{first + i:06d}.cls", str(k).encode())]
        for i, k in enumerate(labels)
    ]
    return [member for pair in pairs for member in pair]

"""Damaged image files through `vit.images.decode` and `vit.data.sets.window`, in a process of its own.

python tests/images/fuzz_decode.py FIRST COUNT FOLDER: file number n is a function of n. Before each, n is written to
FOLDER/at, so that a crash can be told and made again; at the end a line of JSON with what came of them.
"""

from __future__ import annotations

import io
import json
import random
import signal
import struct
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vit.data.sets.window import Window, decode_window
from vit.errors import UserError
from vit.images.decode import decode, image_size

MAX_PIXELS = 4_000_000
SECONDS = 10.0
"""Of CPU time for one file."""
GROWTH = 40 * MAX_PIXELS
"""Bytes that the process may grow by: the copies of the largest image that is let through, at most."""


def scene(height: int, width: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth with some noise: uint8 [H, W, channels]."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (5 + k)) * 50 + np.cos(y / (4 + k)) * 50 + 128 for k in range(channels)]
    noisy = np.stack(waves, axis=2) + rng.normal(0, 6, (height, width, channels))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def corpus() -> list[tuple[str, bytes]]:
    """(suffix, bytes) of whole files: every format that is read and every mode that it comes in."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(scene(37, 52, 3, rng))
    rgba = Image.fromarray(scene(37, 52, 4, rng))
    gray, alpha = rgb.convert("L"), rgba.convert("LA")
    palette = rgb.quantize(20)
    clear = palette.copy()
    clear.info["transparency"] = 3
    deep = Image.fromarray((scene(37, 52, 1, rng)[:, :, 0].astype(np.uint16)) * 257)
    real = Image.fromarray(scene(37, 52, 1, rng)[:, :, 0].astype(np.float32) / 255)
    exif = Image.Exif()
    exif[274] = 6

    def frames() -> dict[str, Any]:
        # New ones each time: saving leaves its settings in an image.
        return {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}

    wanted = [
        ("jpg", rgb, {"quality": 90}), ("jpg", rgb, {"quality": 60, "progressive": True}),
        ("jpg", rgb, {"subsampling": 0, "exif": exif}), ("jpg", gray, {}), ("jpg", rgb.convert("CMYK"), {}),
        ("jpg", rgb, {"restart_marker_blocks": 3, "optimize": True}), ("mpo", rgb, frames()),
        ("png", rgb, {}), ("png", rgba, {}), ("png", alpha, {}), ("png", palette, {}), ("png", clear, {}),
        ("png", gray.convert("1"), {}), ("png", deep, {}), ("png", rgb, frames()),
        ("webp", rgb, {"quality": 80}), ("webp", rgba, {"lossless": True}), ("webp", rgb, frames()),
        ("gif", palette, {}), ("gif", rgb, frames()),
        ("bmp", rgb, {}), ("bmp", palette, {}), ("bmp", gray.convert("1"), {}), ("bmp", rgba, {}),
        ("tif", rgb, {}), ("tif", rgb, {"compression": "tiff_lzw"}), ("tif", rgba, {"compression": "tiff_deflate"}),
        ("tif", rgb, {"compression": "jpeg"}), ("tif", deep, {}), ("tif", real, {}), ("tif", rgb.convert("CMYK"), {}),
        ("tif", gray.convert("1"), {"compression": "group4"}), ("tif", rgb, frames()),
        ("ppm", rgb, {}), ("pgm", gray, {}), ("pbm", gray.convert("1"), {}), ("pgm", deep, {}),
    ]  # fmt: skip
    kinds = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM", "pbm": "PPM"}
    made = []
    for suffix, image, options in wanted:
        stream = io.BytesIO()
        image.copy().save(stream, kinds.get(suffix, suffix.upper()), **options)
        made.append((suffix, stream.getvalue()))
    made.append(("ppm", b"P3\n4 3\n255\n" + b"10 200 30 " * 12))
    return made


def damaged(number: int, files: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """File `number`: a whole one after one to three kinds of damage."""
    rng = random.Random(number)
    suffix, content = files[rng.randrange(len(files))]
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        if not data:
            break
        kind, at = rng.randrange(8), rng.randrange(len(data))
        head = rng.randrange(min(len(data), 128))
        if kind == 0:  # bits anywhere
            for _ in range(rng.choice((1, 1, 4, 30))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == 1:  # bits where sizes and modes are told
            data[head] ^= 1 << rng.randrange(8)
        elif kind == 2:  # numbers at their limits
            limit = rng.choice((0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
            packed = struct.pack(rng.choice("<>") + "I", limit)
            data[head : head + 4] = packed[: rng.choice((1, 2, 4))]
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + rng.randint(1, 40)]
        elif kind == 5:  # a piece twice
            piece = data[at : at + rng.randint(1, 60)]
            data[at:at] = piece * rng.choice((1, 2, 200))
        elif kind == 6:  # the end of another file
            other = files[rng.randrange(len(files))][1]
            data[at:] = other[rng.randrange(len(other)) :]
        else:
            suffix = rng.choice(files)[0]
    return suffix, bytes(data)


def part(size: tuple[int, int]) -> Window:
    return Window(size[1] // 4, size[0] // 4, max(size[1] // 2, 1), max(size[0] // 2, 1), by=2)


def whole(size: tuple[int, int]) -> Window:
    return Window(0, 0, size[1], size[0])


def looked_at(path: Path, content: bytes) -> str:
    """What comes of a file, "read" or the start of the message; AssertionError for what must not come of it."""
    try:
        pixels = decode(path, max_pixels=MAX_PIXELS)
    except UserError as error:
        assert str(path) in str(error), "the message does not name the file"
        pixels, outcome = None, str(error).replace(str(path), "FILE")
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
        assert image_size(path) == pixels.shape[:2]
        outcome = "read"
    for source in (path, content):
        for choose in (whole, part):
            try:
                view = decode_window(source, choose, max_pixels=MAX_PIXELS)
            except UserError:
                assert pixels is None, "decode reads what decode_window does not"
                continue
            assert pixels is not None, "decode_window reads what decode does not"
            assert view.size == pixels.shape[:2] and view.pixels.size
            if choose is whole:
                assert np.array_equal(view.pixels, pixels)
    return outcome


def memory(line: str) -> int:
    """Bytes in memory (Linux): "VmRSS", at this moment, or "VmHWM", the most since the process began; getrusage's
    maximum is also that of the process that started this one."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(text.split()[1]) for text in status if text.startswith(line))


def main(first: int, count: int, folder: Path) -> None:
    files, outcomes, worst = corpus(), Counter(), 0.0
    warnings.simplefilter("ignore")  # Pillow's own, of tags that are odd
    for suffix, content in files:  # everything is loaded and has its memory
        path = folder / f"whole.{suffix}"
        path.write_bytes(content)
        assert looked_at(path, content) == "read", suffix
    before = memory("VmRSS")
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process, whatever it is at
    for number in range(first, first + count):
        (folder / "at").write_text(str(number))
        suffix, content = damaged(number, files)
        path = folder / f"damaged.{suffix}"
        path.write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        outcomes[looked_at(path, content)] += 1
        signal.setitimer(signal.ITIMER_PROF, 0)
        path.unlink()
        grown = memory("VmHWM") - before
        assert grown < GROWTH, f"{grown / 2**20:.0f} MB more memory"
        worst = max(worst, grown)
    print(json.dumps({"read": outcomes["read"], "refused": count - outcomes["read"], "megabytes": worst / 2**20}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

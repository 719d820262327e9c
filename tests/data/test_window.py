"""Parts of images, decoded at a reduced scale: the right part, the same pixels, the same faults found."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import vit.data.sets.window
from tests.images.test_image import with_exif
from vit.data.augment.crop import resized
from vit.data.sets.boxset import Annotation, BoxFiles, BoxRows
from vit.data.sets.imageset import FileSet
from vit.data.sets.names import NameTable
from vit.data.sets.rows import RowSet
from vit.data.sets.window import View, Window, cut, decode_window
from vit.errors import UserError
from vit.images.decode import decode

BOX = (120, 64, 376, 320)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [427, 640, 3]: neither side is a multiple of 8."""
    return load_sample_image("china.jpg")


@pytest.fixture(params=[True, False], ids=["simplejpeg", "Pillow"])
def decoder(request, monkeypatch):
    """With the optional decoder and without."""
    if request.param:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(vit.data.sets.window, "_simplejpeg", lambda: None)


def encoded(image: np.ndarray | Image.Image, kind: str = "JPEG", orientation: int = 1, **options) -> bytes:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, kind, exif=exif, **options)
    return stream.getvalue()


def whole(by: int):
    return lambda size: Window(0, 0, size[1], size[0], by)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.square(one.astype(float) - other).mean())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_at_full_scale_the_pixels_are_those_of_decode(photo, decoder, orientation):
    data = encoded(photo, orientation=orientation, quality=90)
    expected = decode(data)
    view = decode_window(data, whole(1))
    np.testing.assert_array_equal(view.pixels, expected)
    assert view.size == expected.shape[:2] and view.box == (0, 0, expected.shape[1], expected.shape[0])
    view = decode_window(data, lambda size: Window(*BOX))
    np.testing.assert_array_equal(view.pixels, expected[BOX[1] : BOX[3], BOX[0] : BOX[2]])
    assert view.box == BOX


@pytest.mark.parametrize("kind", ["gray", "CMYK", "progressive", "4:4:4", "PNG", "RGBA"])
def test_every_kind_of_file(photo, decoder, kind):
    image = Image.fromarray(photo)
    if kind == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    data = {
        "gray": lambda: encoded(image.convert("L")),
        "CMYK": lambda: encoded(image.convert("CMYK")),
        "progressive": lambda: encoded(image, progressive=True),
        "4:4:4": lambda: encoded(image, subsampling=0),
        "PNG": lambda: encoded(image, "PNG"),
        "RGBA": lambda: encoded(image, "PNG"),
    }[kind]()
    view = decode_window(data, lambda size: Window(*BOX))
    np.testing.assert_array_equal(view.pixels, decode(data)[BOX[1] : BOX[3], BOX[0] : BOX[2]])


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("by", [2, 4, 8])
def test_a_reduced_window_shows_the_same_part(photo, decoder, by, orientation):
    photo = photo[:424]  # whole blocks of 8, as cameras write them
    data = encoded(photo, orientation=orientation, quality=95)
    full = decode(data)
    view = decode_window(data, lambda size: Window(*BOX, by=by))
    assert view.pixels.shape == (256 // by, 256 // by, 3) and view.box == BOX
    expected = resized(full[BOX[1] : BOX[3], BOX[0] : BOX[2]], (256 // by, 256 // by), "bicubic")
    moved = resized(full[BOX[1] + by : BOX[3] + by, BOX[0] : BOX[2]], (256 // by, 256 // by), "bicubic")
    assert psnr(view.pixels, expected) > 29
    assert psnr(view.pixels, expected) > psnr(view.pixels, moved) + 6  # a reduced pixel further down is not the same


def test_reduced_by_either_decoder_the_pixels_are_the_same(photo, monkeypatch):
    pytest.importorskip("simplejpeg")
    data = encoded(photo)
    for by in (2, 4, 8):
        fast = decode_window(data, whole(by))
        with monkeypatch.context() as patch:
            patch.setattr(vit.data.sets.window, "_simplejpeg", lambda: None)
            plain = decode_window(data, whole(by))
        np.testing.assert_array_equal(fast.pixels, plain.pixels)
        assert fast.box == plain.box and fast.box[2] >= 640 - by and fast.box[3] >= 427 - by


def test_a_turned_image_of_odd_size_is_not_reduced(photo, decoder):
    view = decode_window(encoded(photo, orientation=6), whole(8))
    assert view.pixels.shape == (640, 427, 3)


@pytest.mark.parametrize("late", [False, True])
def test_a_turned_png_is_upright_wherever_its_exif_lies(photo, late):
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, "PNG")
    data = with_exif(stream.getvalue(), 6, late=late)
    view = decode_window(data, lambda size: Window(*BOX))
    np.testing.assert_array_equal(view.pixels, decode(data)[BOX[1] : BOX[3], BOX[0] : BOX[2]])
    assert view.size == (640, 427)


def test_other_formats_are_not_reduced(photo, decoder):
    assert decode_window(encoded(photo, "PNG"), lambda size: Window(*BOX, by=4)).pixels.shape == (256, 256, 3)


def test_a_window_has_at_least_one_pixel(photo):
    for window in (
        Window(639.6, 426.8, 640, 427),
        Window(-5, -5, 0.2, 0.2),
        Window(3, 3, 3, 3),
        Window(700, 0, 900, 9),
    ):
        view = cut(photo, window, (427, 640))
        assert view.pixels.size and 0 <= view.box[0] < view.box[2] <= 640 and 0 <= view.box[1] < view.box[3] <= 427


def test_row_22_a_truncated_file_is_found_whatever_part_is_wanted(photo, decoder):
    data = encoded(photo)
    for by in (1, 8):
        with pytest.raises(UserError, match="cannot be decoded"):
            decode_window(data[: len(data) * 9 // 10], lambda size, by=by: Window(0, 0, 64, 64, by))


def test_row_29_the_limit_of_pixels_holds(photo, decoder):
    with pytest.raises(UserError, match="640 x 427 pixels are more than the limit of 100,000"):
        decode_window(encoded(photo), whole(8), max_pixels=100_000)


def test_sets_of_files_decode_windows_and_cached_ones_cut_them(photo, tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(encoded(photo))
    images = FileSet(["x"], np.array([0]), str(tmp_path), NameTable.of(["a.jpg"]))
    reduced = images.view(0, lambda size: Window(*BOX, by=4))
    assert reduced.pixels.shape == (64, 64, 3)
    assert images.cache()
    kept = images.view(0, lambda size: Window(*BOX, by=4))
    assert kept.pixels.shape == (256, 256, 3) and kept.box == reduced.box == BOX


class Store:
    """Files that lie in memory."""

    def __init__(self, *files: bytes) -> None:
        self.files = files

    def name(self, row):
        return f"store, row {row}"

    def key(self, row):
        return b"%d" % row

    def file(self, row):
        return ".jpg", self.files[row]

    def stamp(self):
        return ""


def test_rows_of_a_store_decode_windows_as_single_files_do(photo, decoder, tmp_path):
    files = [encoded(photo, orientation=6, quality=80), encoded(photo), b"", encoded(photo)[:9000]]
    for k, content in enumerate(files):
        (tmp_path / f"{k}.jpg").write_bytes(content)
    single = FileSet(["x"], np.zeros(4, np.int64), str(tmp_path), NameTable.of([f"{k}.jpg" for k in range(4)]))
    rows = RowSet(["x"], np.zeros(4, np.int64), Store(*files), np.array([1, 0, 2, 3]))
    for i, k in ((0, 1), (1, 0)):
        for by in (1, 4):
            one, other = (s.view(j, lambda size, by=by: Window(*BOX, by=by)) for s, j in ((rows, i), (single, k)))
            np.testing.assert_array_equal(one.pixels, other.pixels)
            assert one.box == other.box and one.size == other.size
    with pytest.raises(UserError, match=r"store, row 2: the file is empty"):
        rows.view(2, whole(4))
    with pytest.raises(UserError, match=r"store, row 3: cannot be decoded"):
        rows.view(3, whole(4))


def test_row_18_another_size_than_the_annotations_say_is_found_before_decoding(photo, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(photo))
    rows = Annotation(np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, bool), np.empty(0, np.float32))
    sizes = np.array([[640, 427]])
    images = BoxFiles(["x"], str(tmp_path), NameTable.of(["a.jpg"]), np.array([0]), rows, np.array([0]), sizes)
    stored = BoxRows(
        ["x"], Store(encoded(photo)), np.array([0]), np.array([0]), rows, np.array([0]), sizes
    )  # fmt: skip
    for some, name in ((images, r"a\.jpg"), (stored, "store, row 0")):
        with pytest.raises(UserError, match=f"{name}: the image is 640x427 pixels, its annotations say 427x640"):
            some.view(0, whole(1))


def test_a_view_is_plain(photo):
    view = cut(photo, Window(*BOX), (427, 640))
    assert isinstance(view, View) and np.shares_memory(view.pixels, photo)

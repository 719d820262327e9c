"""Decoding (FAULTS rows 20 to 32) and the evaluation transform, compared with timm's."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFile

import vit.images.decode
from vit.errors import UserError
from vit.images.decode import allowed_pixels
from vit.images.preprocess import MAX_PIXELS, Preprocess, decode, image_size


def scene(height=24, width=36, seed=0):
    """A smooth picture with a red corner at the top left: survives JPEG, shows every orientation."""
    ramp = np.linspace(40, 160, height)[:, None] + np.linspace(0, 60, width)[None]
    image = np.repeat(ramp[:, :, None], 3, axis=2).astype(np.uint8)
    image[: height // 3, : width // 3] = (220, 30, 30)
    return image


def encoded(image, format, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that claims this size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 100) + b"IDAT" + b"x"


# --------------------------------------------------------------------------------------------------- sizes


def with_exif(content, orientation, *, late):
    """A PNG with a chunk of EXIF before or after its pixels."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    place = len(content) - 12 if late else 33  # before IEND, or after IHDR
    return content[:place] + chunk + content[place:]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_sizes_come_from_the_header_alone(format, monkeypatch):
    content = encoded(scene(), format)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("the pixels were decoded"))
    assert image_size(content) == (24, 36)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_sizes_are_those_of_the_upright_image(orientation, late):
    content = with_exif(encoded(scene(), "PNG"), orientation, late=late)
    assert image_size(content) == decode(content).shape[:2] == ((36, 24) if orientation == 6 else (24, 36))


def test_the_size_of_a_bomb_is_told_without_setting_it_off(monkeypatch):
    """Row 29."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("the pixels were decoded"))
    assert image_size(png_header(60_000, 50_000)) == (50_000, 60_000)
    assert image_size(with_exif(png_header(60_000, 50_000) + b"\0" * 12, 6, late=True)) == (50_000, 60_000)


# ------------------------------------------------------------------------------------------------- sources


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    image = scene()
    path = tmp_path / "a.png"
    path.write_bytes(encoded(image, "PNG"))
    with open(path, "rb") as file:
        from_file = decode(file)
        assert not file.closed
    for pixels in (decode(path), decode(str(path)), decode(path.read_bytes()), from_file, decode(image)):
        np.testing.assert_array_equal(pixels, image)
    np.testing.assert_array_equal(decode(Image.fromarray(image)), image)


def test_arrays_of_other_types_are_scaled():
    values = np.array([[0, 1], [128, 255]], np.uint8)
    expected = np.repeat(values[:, :, None], 3, axis=2)
    for array in (values, values[:, :, None], values.astype(np.uint16) * 257, values / 255):
        np.testing.assert_array_equal(decode(array), expected)


def test_a_transparent_array_lies_on_white():
    array = np.zeros((1, 3, 4), np.uint8)
    array[0, :, 3] = (0, 255, 51)
    np.testing.assert_array_equal(decode(array)[0, :, 0], [255, 0, 204])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8), np.int64),
        np.full((8, 8), 7.0),
        np.full((8, 8), np.nan),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_image_is_refused(array):
    with pytest.raises(UserError, match="array"):
        decode(array)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.png: no such file \(current folder"):
        decode(tmp_path / "nothing.png")
    with pytest.raises(UserError, match="is a folder"):
        decode(tmp_path)


# --------------------------------------------------------------------------------------------- rows 20 to 24


@pytest.mark.parametrize("name", ["with space.png", "größe 图像.png", "UPPER.PNG", "no_suffix"])
def test_row_20_any_name(tmp_path, name):
    (tmp_path / name).write_bytes(encoded(scene(), "PNG"))
    np.testing.assert_array_equal(decode(tmp_path / name), scene())


def test_row_21_an_empty_file_is_named(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(UserError, match=r"empty\.jpg: the file is empty"):
        decode(tmp_path / "empty.jpg")
    with pytest.raises(UserError):
        decode(b"")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_row_22_a_truncated_file_is_refused_and_left_alone(tmp_path, format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(noise, format)
    path = tmp_path / "cut"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    before = path.stat().st_mtime_ns
    with pytest.raises(UserError, match="cut: "):
        decode(path)
    assert path.read_bytes() == whole[: len(whole) * 2 // 3]
    assert path.stat().st_mtime_ns == before


def test_row_23_pillow_never_fills_in_missing_pixels():
    data = encoded(scene(), "JPEG")
    with pytest.raises(UserError):
        decode(data[:-40])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_row_24_exif_orientation_is_applied_once(orientation, format):
    upright = scene()
    # What the camera stores so that the viewer's turn gives `upright`.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"JPEG": {"quality": 98}, "WEBP": {"lossless": True}}.get(format, {})
    buffer = io.BytesIO()
    stored.save(buffer, format, exif=exif, **options)
    # The same from the bytes and from an image that a caller has opened, and loaded, himself.
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    opened.load()
    for pixels in (decode(buffer.getvalue()), decode(opened)):
        assert pixels.shape == upright.shape
        assert np.abs(pixels.astype(int) - upright).mean() < 3


# --------------------------------------------------------------------------------------------- rows 25 to 31


def test_row_25_other_modes_give_their_colours():
    red = np.zeros((8, 8, 3), np.uint8)
    red[:] = (204, 51, 51)  # a colour of the web palette, which "P" is converted to
    image = Image.fromarray(red)
    for mode, format in (("CMYK", "TIFF"), ("P", "PNG"), ("RGBA", "PNG"), ("YCbCr", "TIFF"), ("P", "GIF")):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, format)
        assert np.abs(decode(buffer.getvalue()).astype(int) - red).max() <= 6, (mode, format)
    buffer = io.BytesIO()
    image.convert("CMYK").save(buffer, "JPEG", quality=98)
    assert np.abs(decode(buffer.getvalue()).astype(int) - red).max() <= 12


def test_row_25_one_bit_and_gray():
    bits = np.array([[0, 1], [1, 0]], bool)
    buffer = io.BytesIO()
    Image.fromarray(bits).save(buffer, "PNG")
    np.testing.assert_array_equal(decode(buffer.getvalue())[:, :, 1], bits * 255)
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(decode(encoded(gray, "PNG"))[:, :, 2], gray)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_row_25_what_is_transparent_is_white(mode):
    # Black everywhere, visible on the left half only: convert("RGB") would give black everywhere.
    alpha = np.zeros((4, 4), np.uint8)
    alpha[:, :2] = 255
    image = Image.new(mode, (4, 4), 0)
    image.putalpha(Image.fromarray(alpha))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    pixels = decode(buffer.getvalue())
    assert (pixels[:, :2] == 0).all()
    assert (pixels[:, 2:] == 255).all()


def test_row_25_a_palette_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 0, 0, 0])
    image.putdata([0, 1])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=1)
    np.testing.assert_array_equal(decode(buffer.getvalue())[0], [[10, 20, 30], [255, 255, 255]])


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_row_26_16_bit_is_scaled(format):
    values = np.array([[0, 257, 25700], [32768, 65278, 65535]], np.uint16)
    np.testing.assert_array_equal(decode(encoded(values, format))[:, :, 0], [[0, 1, 100], [128, 254, 255]])


def test_row_26_a_dark_16_bit_file_stays_dark():
    values = np.full((4, 4), 200, np.uint16)
    for format in ("PNG", "TIFF", "PPM"):
        assert decode(encoded(values, format)).max() == 1


def test_row_27_float_tiff_is_scaled_or_refused():
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    expected = np.rint(ramp * 255)
    np.testing.assert_array_equal(decode(encoded(ramp, "TIFF"))[:, :, 0], expected)
    np.testing.assert_allclose(decode(encoded(ramp * 255, "TIFF"))[:, :, 0], expected, atol=1)
    for bad in (ramp * 5000, ramp - 2, ramp * np.nan):
        with pytest.raises(UserError, match="floating-point values"):
            decode(encoded(bad.astype(np.float32), "TIFF"))


def test_row_27_32_bit_integers_are_scaled_or_refused():
    values = np.array([[0, 70000]], np.int32)
    with pytest.raises(UserError, match="32-bit values"):
        decode(encoded(values, "TIFF"))
    assert decode(encoded(np.array([[0, 65535]], np.int32), "TIFF"))[0, 1, 0] == 255
    assert decode(encoded(np.array([[0, 200]], np.int32), "TIFF"))[0, 1, 0] == 200


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_row_28_the_first_frame_and_one_notice(format, caplog, monkeypatch):
    monkeypatch.setattr(vit.images.decode, "_animation_reported", False)
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    buffer = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {}
    first.save(buffer, format, save_all=True, append_images=[second], **options)
    with caplog.at_level("WARNING", logger="vitral"):
        for _ in range(3):
            pixels = decode(buffer.getvalue())
    assert (pixels == (255, 0, 0)).all()
    assert [record for record in caplog.messages if "several frames" in record] == caplog.messages
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("size", [(9460, 9460), (12000, 12000), (40000, 40000)])
def test_row_29_a_bomb_is_refused_before_its_pixels_are_read(size):
    assert size[0] * size[1] > MAX_PIXELS
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UserError, match="more than the limit of"):
        decode(png_header(*size))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_row_29_the_limit_can_be_set():
    assert allowed_pixels(None) == 89_478_485 and allowed_pixels("200000000") == 200_000_000
    with pytest.raises(UserError, match="VITRAL_MAX_PIXELS is 'many'"):
        allowed_pixels("many")
    data = encoded(scene(20, 30), "PNG")
    with pytest.raises(UserError, match="30 x 20 pixels are more than the limit of 599"):
        decode(data, max_pixels=599)
    assert decode(data, max_pixels=600).shape == (20, 30, 3)
    # Beyond Pillow's own refusal, a raised limit is obeyed: the file then fails for having no pixels.
    with pytest.raises(UserError, match="cannot be decoded"):
        decode(png_header(100_000, 4), max_pixels=10**9)


def test_row_30_other_formats_are_refused_whatever_their_suffix(tmp_path):
    eps = io.BytesIO()
    Image.fromarray(scene()).save(eps, "EPS")
    psd = b"8BPS\x00\x01" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(400)
    fits = b"".join(
        line.ljust(80)
        for line in (
            b"SIMPLE  =                    T",
            b"BITPIX  =                    8",
            b"NAXIS   = 0",
            b"END",
        )
    ).ljust(2880)
    icns = io.BytesIO()
    Image.fromarray(scene(32, 32)).save(icns, "ICNS")
    for number, data in enumerate((eps.getvalue(), psd, fits, icns.getvalue(), b"<html>no image</html>")):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"{number}\.jpg: not an image in one of the formats"):
            decode(path)


@pytest.mark.parametrize("resize", ["crop", "squash", "letterbox"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (1000, 1), (3, 2000)])
def test_row_31_extreme_shapes(resize, shape):
    image = np.full((*shape, 3), 77, np.uint8)
    out = Preprocess((32, 48), resize=resize, crop=0.9).pixels(decode(encoded(image, "PNG")))
    assert out.shape == (32, 48, 3)
    assert (out == 77).any()


def test_mutated_files_are_refused_or_read_and_nothing_else():
    rng = np.random.default_rng(0)
    sources = [encoded(scene(), format) for format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
    refused = 0
    for _ in range(700):
        data = bytearray(sources[rng.integers(len(sources))])
        for position in rng.integers(0, len(data), 4):
            data[position] = rng.integers(256)
        if rng.random() < 0.3:
            data = data[: rng.integers(1, len(data))]
        try:
            pixels = decode(bytes(data))
        except UserError:
            refused += 1
        else:
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3 and pixels.shape[2] == 3
    assert 50 < refused < 650


# --------------------------------------------------------------------------------------------- Preprocess


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (500, 375), (64, 64), (31, 97), (256, 256)])
@pytest.mark.parametrize("crop", [1.0, 0.9, 0.875])
@pytest.mark.parametrize("size", [64, 224])
def test_crop_is_timms_evaluation_transform(shape, crop, size):
    from timm.data import create_transform

    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    theirs = create_transform((3, size, size), crop_pct=crop, interpolation="bicubic", mean=mean, std=std)
    ours = Preprocess((size, size), crop=crop, mean=mean, std=std)
    expected = theirs(Image.fromarray(image))
    torch.testing.assert_close(ours.tensor(ours.pixels(image)[None])[0], expected, rtol=0, atol=2e-6)


def test_crop_to_a_rectangle_keeps_the_middle():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    out = Preprocess((50, 50)).pixels(image)
    assert (out == 255).mean() > 0.95
    assert Preprocess((40, 100)).pixels(image).shape == (40, 100, 3)


def test_squash_keeps_everything_and_letterbox_fills_with_the_mean():
    image = np.zeros((10, 40, 3), np.uint8)
    image[:, :20] = 200
    squashed = Preprocess((20, 20), resize="squash", interpolation="nearest").pixels(image)
    assert (squashed[:, :10] == 200).all() and (squashed[:, 10:] == 0).all()
    boxed = Preprocess((20, 20), resize="letterbox", mean=(0.2, 0.4, 0.6)).pixels(image)
    np.testing.assert_array_equal(boxed[0, 0], [51, 102, 153])
    np.testing.assert_array_equal(boxed[10, 2], [200, 200, 200])


def test_row_22_a_jpeg_that_claims_more_pixels_than_it_holds(tmp_path):
    data = bytearray(encoded(scene(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 9000, 9000)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.jpg: cannot be decoded \(\d+ bytes do not hold 9000 x 9000 pixels\)"):
        decode(tmp_path / "a.jpg")
    # The emptiest image there is does hold its pixels.
    blank = io.BytesIO()
    Image.new("L", (6000, 6000)).save(blank, "JPEG", optimize=True, progressive=True)
    assert decode(blank.getvalue()).shape == (6000, 6000, 3)


@pytest.mark.parametrize("shape", [(0, 9, 7), (1, 300, 301), (5, 200, 300), (64, 28, 28)])
def test_normalising_in_parts_changes_no_bit(shape):
    preprocess = Preprocess(shape[1:], mean=(0.1, 0.5, 0.9), std=(0.2, 0.21, 0.3))
    pixels = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    expected = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
    found = preprocess.tensor(pixels)
    assert torch.equal(found, expected) and found.is_contiguous()


def test_tensor_and_denormalise_are_inverse():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    preprocess = Preprocess((5, 7))
    tensor = preprocess.tensor(pixels)
    assert tensor.shape == (2, 3, 5, 7) and tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, preprocess.tensor(torch.from_numpy(pixels)), rtol=0, atol=0)
    torch.testing.assert_close(tensor[0, 1, 0, 0].item(), (pixels[0, 0, 0, 1] / 255 - 0.456) / 0.224)
    np.testing.assert_array_equal(preprocess.denormalize(tensor), pixels)


def test_an_image_of_the_right_size_is_not_touched():
    image = scene(28, 28)
    assert Preprocess((28, 28)).pixels(image) is image
    assert Preprocess((28, 28), crop=0.9).pixels(image) is not image


def test_to_dict_is_plain_and_from_dict_its_inverse():
    import json

    preprocess = Preprocess((32, 48), resize="letterbox", crop=0.9, interpolation="bilinear", mean=(0.1, 0.2, 0.3))
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    with pytest.raises(UserError, match=r"no field 'sise'.*Did you mean \"size\""):
        Preprocess.from_dict({"sise": [1, 1]})
    with pytest.raises(UserError, match="needs the field size"):
        Preprocess.from_dict({})


@pytest.mark.parametrize(
    "options",
    [
        {"size": (0, 8)},
        {"resize": "stretch"},
        {"crop": 0.0},
        {"crop": 1.5},
        {"interpolation": "bicubc"},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (0.5,)},
    ],
)
def test_a_wrong_field_is_refused(options):
    with pytest.raises(UserError, match="preprocess"):
        Preprocess(**{"size": (8, 8), **options})

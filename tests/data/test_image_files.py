import struct
import zlib

import numpy as np
import pytest
from dataset_files import write_photos
from PIL import Image

from mta_clip.data.image_files import find_images, image_depth, read_image


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


def test_files_folders_and_globs(photos):
    below = ["a.png", "b.jpg", "sub/a.png"]
    inside = {str(photos / name): name for name in below}
    assert find_images([str(photos)]) == (inside, {})
    assert list(find_images([str(photos / "*.png"), str(photos)])[0].items()) == list(inside.items())
    assert find_images([str(photos / "**" / "a.png")])[0] == {str(photos / name): name for name in below[::2]}
    assert find_images([str(photos / "s*")])[0] == {str(photos / "sub/a.png"): "sub/a.png"}
    assert find_images([str(photos / "sub/a.png")])[0] == {str(photos / "sub/a.png"): "a.png"}
    odd = photos / "c[1].png"
    odd.write_bytes((photos / "a.png").read_bytes())
    assert find_images([str(odd)]) == ({str(odd): "c[1].png"}, {})


def test_relative_paths(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert find_images(["a.png", "sub", "*.jpg"])[0] == {"a.png": "a.png", "sub/a.png": "a.png", "b.jpg": "b.jpg"}
    monkeypatch.chdir(photos / "sub")
    assert find_images(["../b.jpg", ".."])[0] == {"../b.jpg": "b.jpg", "../a.png": "a.png", "../sub/a.png": "sub/a.png"}


def test_names_stay_below_the_output(photos, monkeypatch):
    monkeypatch.chdir(photos)
    (photos.parent / "up.jpg").write_bytes((photos / "b.jpg").read_bytes())
    assert find_images(["s*/../../up.jpg", "../up.jpg"])[0] == {"sub/../../up.jpg": "up.jpg", "../up.jpg": "up.jpg"}


def test_inputs_that_lead_nowhere_are_told(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    images, failures = find_images([str(photos / "a.png"), "gone.png", "no*thing", str(tmp_path / "empty")])
    assert list(images) == [str(photos / "a.png")]
    assert set(failures) == {"gone.png", "no*thing", str(tmp_path / "empty")}


def test_skipped_pictures_in_a_folder_are_named(photos, caplog):
    for name in ("c.HEIC", "d.gif"):
        (photos / name).touch()
    assert len(find_images([str(photos)])[0]) == 3
    assert "2 files are skipped" in caplog.text and "c.HEIC, d.gif" in caplog.text


def test_truncated_jpeg(tmp_path):
    path = tmp_path / "broken.jpg"
    Image.fromarray(np.random.randint(0, 256, (80, 80, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"broken\.jpg.*cannot be read"):
        read_image(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "P", "PA", "CMYK"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode in ("CMYK", "PA") else "image.png")
    grey = 255 if mode == "1" else 204
    _picture(mode, grey).save(path)
    image = read_image(path)
    assert image.shape == (3, 4, 3) and image.dtype == np.uint8
    assert (abs(image.astype(int) - grey) <= 1).all()


def _picture(mode, grey):
    picture = Image.new("RGB", (4, 3), (grey,) * 3)
    return picture.convert("P").convert("PA") if mode == "PA" else picture.convert(mode)


DEEP = np.array([[0, 1, 0.5, 0.2, 0.999]])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_by_range(tmp_path, suffix):
    path = tmp_path / f"deep{suffix}"
    Image.fromarray((DEEP * 65535).astype(np.uint16)).save(path)
    assert read_image(path)[0].tolist() == [[v] * 3 for v in (0, 255, 127, 51, 255)]
    assert image_depth(path) == "16-bit grey"
    Image.fromarray(np.full((2, 2), 4095, np.uint16)).save(path)  # 12 bits: as dark as the file says
    assert (read_image(path) == 16).all()


def test_floats_from_zero_to_one_are_scaled(tmp_path):
    path = tmp_path / "float.tif"
    Image.fromarray(DEEP.astype(np.float32)).save(path)
    assert read_image(path, image_format="BGR")[0].tolist() == [[v] * 3 for v in (0, 255, 128, 51, 255)]
    assert image_depth(path) == "float grey"


@pytest.mark.parametrize("pixels", [DEEP * 200, DEEP - 0.1, DEEP * np.nan])
def test_other_floats_are_refused_with_the_reason(tmp_path, pixels):
    Image.fromarray(pixels.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif: .*float pixels go from .* nothing says which value is white"):
        read_image(tmp_path / "float.tif")


def test_integers_of_32_bits_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "long.tif")
    with pytest.raises(ValueError, match="32-bit pixels go from 0 to 70000"):
        read_image(tmp_path / "long.tif")


def test_depth_of_common_images(photos, tmp_path):
    assert image_depth(photos / "b.jpg") == "8-bit RGB"
    (tmp_path / "rgb16.png").write_bytes(_png_of_16_bit_colours())
    assert image_depth(tmp_path / "rgb16.png") == "16-bit RGB"
    assert read_image(tmp_path / "rgb16.png").tolist() == [[[255, 128, 0]]]


def _png_of_16_bit_colours():
    """One pixel; Pillow cannot write such files."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0" + struct.pack(">HHH", 65535, 0x8000, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_exif_orientation_is_applied_once(tmp_path, suffix):
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:10] = 255  # the top as stored, the right side as seen
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", exif=exif)
    image = read_image(tmp_path / f"a{suffix}")
    assert image.shape == (40, 30, 3)
    assert image[:, -8:].min() > 200 and image[:, :18].max() < 50


def test_what_a_path_is(tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello there")
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1")
    for name, error, message in (
        ("link.jpg", FileNotFoundError, "is a link to .*gone.jpg, which does not exist"),
        ("none.jpg", FileNotFoundError, "this image does not exist"),
        ("", ValueError, "this is a folder"),
        ("empty.jpg", ValueError, "the file is empty"),
        ("text.jpg", ValueError, "no image format that is read here; it starts with b'hello there'"),
        ("phone.jpg", ValueError, "seems to be HEIC"),
    ):
        with pytest.raises(error, match=message):
            read_image(tmp_path / name)
    assert find_images([str(tmp_path / "link.jpg")]) == ({str(tmp_path / "link.jpg"): "link.jpg"}, {})


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "I;16"])
def test_raw_tiffs_on_their_side(tmp_path, mode):
    """Pillow would map some of these into memory, with height and width swapped."""
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    deep = pixels.astype(np.uint16) * 257
    image = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.tif", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], np.rot90(pixels, -1))

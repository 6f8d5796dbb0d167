import numpy as np
import pytest
import torch
from PIL import Image

from mta_clip.api.images import batches_of_one_size, each_image, is_one_image, to_rgb

PIXELS = np.array([[[0, 51, 255], [255, 102, 0]]], np.uint8)  # (1, 2, 3)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.PNG", "sub/c.png"):
        Image.fromarray(PIXELS).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@pytest.mark.parametrize(
    "image",
    [
        PIXELS,
        (PIXELS / 255).astype(np.float32),
        np.dstack([PIXELS, np.full((1, 2), 7, np.uint8)]),
        torch.from_numpy(PIXELS.transpose(2, 0, 1).copy()),
        torch.from_numpy(PIXELS.transpose(2, 0, 1) / 255),
        (torch.from_numpy(PIXELS.transpose(2, 0, 1).copy()) / 255).bfloat16(),
        Image.fromarray(PIXELS),
        Image.fromarray(PIXELS).convert("RGBA"),
    ],
)
def test_all_kinds_are_the_same_picture(image):
    pixels, path = to_rgb(image)
    assert pixels.dtype == np.uint8 and path is None
    assert np.abs(pixels.astype(int) - PIXELS).max() <= 1  # bfloat16 rounds


def test_files(folder):
    for path in (folder / "b.png", str(folder / "b.png")):
        pixels, name = to_rgb(path)
        assert np.array_equal(pixels, PIXELS) and name == str(path)


@pytest.mark.parametrize("grey", [PIXELS[..., 0], PIXELS[..., :1], torch.from_numpy(PIXELS[None, ..., 0].copy())])
def test_grey_images(grey):
    assert np.array_equal(to_rgb(grey)[0], np.repeat(PIXELS[..., :1], 3, axis=2))
    assert np.array_equal(to_rgb(Image.fromarray(PIXELS[..., 0]))[0], np.repeat(PIXELS[..., :1], 3, axis=2))


def test_pictures_are_turned_upright():
    image = Image.fromarray(PIXELS)
    image.getexif()[0x0112] = 6  # turn by 90 degrees
    assert to_rgb(image)[0].shape == (2, 1, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 2, 5), np.uint8), r"\(2, 2, 5\)"),
        (np.zeros((0, 2, 3), np.uint8), r"\(0, 2, 3\)"),
        (np.zeros((2, 2, 3), np.int64), "int64"),
        (np.full((2, 2, 3), 200.0), "0..1"),
        (np.full((2, 2, 3), np.nan), "0..1"),
        (torch.zeros(2, 2, 3), r"\(2, 2, 3\)"),
        (Image.new("I;16", (2, 2)), "I;16"),
        (3, "int"),
    ],
)
def test_wrong_images_are_refused(image, message):
    with pytest.raises((ValueError, TypeError), match=message):
        to_rgb(image)


def test_what_is_one_image_and_what_are_several(folder):
    ones = ["a.png", folder / "b.png", Image.fromarray(PIXELS), PIXELS, PIXELS[..., 0], torch.zeros(3, 2, 2)]
    assert all(is_one_image(image) and each_image(image) == [image] for image in ones[:3])
    assert all(is_one_image(image) for image in ones)
    several = [folder, str(folder), ones, tuple(ones), np.stack([PIXELS] * 2), torch.zeros(2, 3, 2, 2), iter(ones)]
    assert not any(is_one_image(images) for images in several)


def test_images_of_a_folder(folder, tmp_path):
    assert each_image(str(folder)) == [str(folder / name) for name in ("a.PNG", "b.png", "sub/c.png")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: there are no images.*\.jpg"):
        each_image(tmp_path / "empty")


def test_batches_have_one_size():
    small, large = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 5, 3), np.uint8)
    batches = batches_of_one_size([small, small, small, large, small], 2)
    assert [[image.shape[1] for image, _ in batch] for batch in batches] == [[2, 2], [2], [5], [2]]
    assert list(batches_of_one_size([], 2)) == []

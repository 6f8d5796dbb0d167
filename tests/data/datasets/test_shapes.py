import multiprocessing

import numpy as np
import pytest
from PIL import Image

from mta_clip.data.classes import builtin_classes
from mta_clip.data.datasets.shapes import (
    COLORS,
    IGNORE_LABEL,
    RECIPES,
    SHAPES,
    TEXTURES,
    Recipe,
    all_names,
    render_crop,
    render_scene,
    synonym_of,
    write_split,
)

SMALL = Recipe(count=3, seed=5)
NAMES = builtin_classes("shapes").names


def test_scenes_depend_on_seed_and_index_alone():
    first, again = render_scene(SMALL, 0), render_scene(SMALL, 0)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    for other in (render_scene(SMALL, 1), render_scene(Recipe(count=3, seed=6), 0)):
        assert (first.image != other.image).any()


def test_train_and_val_differ():
    assert RECIPES["train"].seed != RECIPES["val"].seed


def test_scene_format():
    scene = render_scene(SMALL, 0)
    assert (scene.image.shape, scene.labels.shape) == ((96, 128, 3), (96, 128))
    assert scene.image.dtype == scene.labels.dtype == np.uint8
    assert scene.labels[scene.labels != IGNORE_LABEL].max() < len(NAMES)


def test_every_class_is_frequent():
    present = np.zeros(256, int)
    for index in range(60):
        present[np.unique(render_scene(RECIPES["val"], index).labels)] += 1
    assert present[: len(NAMES)].min() >= 10
    assert present[IGNORE_LABEL] == 60


def test_object_colors_follow_the_name():
    """The mean hue of a plain object is its colour's; painted textures only make it paler."""
    for index in range(5):
        scene = render_scene(SMALL, index)
        for name in ("red disc", "green triangle", "blue square"):
            pixels = scene.image[scene.labels == NAMES.index(name)]
            if len(pixels) > 50:
                wanted = COLORS[name.split()[0]]
                assert pixels.mean(axis=0).argmax() == int(np.argmax(wanted))


def test_attributes_combine():
    """Every texture, colour and shape is in three classes or more, so that any one class can be held out."""
    words = [word for name in NAMES[:14] for word in name.split()]
    for attribute in (*COLORS, *SHAPES, *filter(None, TEXTURES)):
        assert words.count(attribute) >= 3, attribute


def test_crops_for_every_combination():
    assert len(all_names()) == len(set(all_names())) == 3 * 4 * 4 + 2
    assert set(NAMES) <= set(all_names())
    for name in all_names():
        image, caption = render_crop(name, seed=0, size=32)
        assert (image.shape, str(image.dtype), caption) == ((3, 32, 32), "torch.uint8", name)
    assert (render_crop("red disc", seed=0)[0] != render_crop("red disc", seed=1)[0]).any()
    assert (render_crop("red disc", seed=0)[0] == render_crop("red disc", seed=0)[0]).all()


@pytest.mark.parametrize("name", ["disc", "pink disc", "striped red", "very striped red disc", ""])
def test_unknown_objects(name):
    with pytest.raises(ValueError, match="cannot be drawn"):
        render_crop(name, seed=0)


def test_written_split(tmp_path):
    folder = write_split(tmp_path, "train", SMALL)
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    scene = render_scene(SMALL, 2)
    np.testing.assert_array_equal(np.array(Image.open(folder / "images" / "00002.png")), scene.image)
    np.testing.assert_array_equal(np.array(Image.open(folder / "labels" / "00002.png")), scene.labels)
    before = (folder / "recipe.json").stat().st_mtime_ns
    write_split(tmp_path, "train", SMALL)
    assert (folder / "recipe.json").stat().st_mtime_ns == before


def test_other_recipe_is_refused(tmp_path):
    write_split(tmp_path, "train", SMALL)
    with pytest.raises(ValueError, match="Remove the folder"):
        write_split(tmp_path, "train", Recipe(count=3, seed=6))


def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def stop(self, file, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Image.Image, "save", stop)
        write_split(tmp_path, "train", SMALL)
    assert list(tmp_path.iterdir()) == []
    write_split(tmp_path, "train", SMALL)


def test_full_disk_is_reported(tmp_path, monkeypatch):
    def fail(self, file, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        write_split(tmp_path, "train", SMALL)


def test_processes_may_draw_at_once(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        folders = pool.starmap(write_split, [(tmp_path, "train", SMALL)] * 4)
    assert len(set(folders)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
    assert len(list((tmp_path / "train" / "labels").iterdir())) == 3


def test_synonyms_are_other_words_and_tell_names_apart():
    names = all_names()
    synonyms = [synonym_of(name) for name in names]
    assert len(set(synonyms)) == len(names)
    assert not {word for name in names for word in name.split()} & {word for name in synonyms for word in name.split()}
    assert synonym_of("striped blue ring") == "banded azure hoop"

import errno

import pytest

from mta_clip.files import complete_file, png_names


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with complete_file(path) as part:
        part.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), complete_file(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left.*a\.txt'"), complete_file(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("images", "names"),
    [
        ([], []),
        (["/d/a.jpg"], ["a.png"]),
        (["/d/x/1.jpg", "/d/y/1.jpg"], ["x/1.png", "y/1.png"]),
        (["/d/1.jpg", "/d/1.png", "/d/2.jpg"], ["1.jpg.png", "1.png.png", "2.jpg.png"]),
        (["/d/a.b.jpg", "/d/a.c.jpg"], ["a.b.png", "a.c.png"]),
    ],
)
def test_every_image_gets_a_name_of_its_own(images, names):
    assert png_names(images) == dict(zip(images, names, strict=True))


def test_relative_and_absolute_paths_mix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert png_names(["a.jpg", f"{tmp_path}/sub/b.jpg"]) == {"a.jpg": "a.png", f"{tmp_path}/sub/b.jpg": "sub/b.png"}

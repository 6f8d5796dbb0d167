"""What the options do is tested with the commands that have them."""

import argparse

import pytest

from mta_clip.cli.own_photos import add_photo_options, has_photos, label_map


@pytest.mark.parametrize("wrong", ["11:255", "11", "{a: 1}", "{1: [2]}", "{1: "])
def test_what_is_no_label_map(wrong):
    with pytest.raises(argparse.ArgumentTypeError, match=r"such as \{11: 255\}"):
        label_map(wrong)
    assert label_map("{11: 255, 0: 1}") == {11: 255, 0: 1}


def test_photos_are_named_by_a_folder_or_by_its_parts():
    parser = argparse.ArgumentParser()
    add_photo_options(parser, "")
    assert not has_photos(parser.parse_args(["--ignore-label", "0"]))
    for options in (["--data", "a"], ["--images", "a", "--labels", "a"]):
        assert has_photos(parser.parse_args(options))

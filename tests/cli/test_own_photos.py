"""What the options do is tested with the commands that have them."""

import argparse

import pytest
from dataset_files import write_pairs

from mta_clip.cli.options import add_config_options, config_of
from mta_clip.cli.own_photos import add_photo_options, has_photos, label_map, photos_config


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


def test_classes_of_the_config_go_and_those_that_are_typed_stay(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "labels", ["a", "b"])
    (tmp_path / "names.txt").write_text("road\nsky\n")
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    add_photo_options(parser, "")
    options = ["--config-file", "shapes/tagclip_inductive", "--data", str(tmp_path)]
    typed = ["DATASETS.UNSEEN_CLASSES", "['sky']", "DATASETS.TRAIN", "('other',)"]
    plain, changed = (parser.parse_args([*pairs, *options]) for pairs in ([], typed))
    assert photos_config(config_of(plain), plain, val_share=0).DATASETS.UNSEEN_CLASSES == []
    cfg = photos_config(config_of(changed), changed, val_share=0)
    assert cfg.DATASETS.UNSEEN_CLASSES == ["sky"] and (f"own_{tmp_path.name}_train",) == cfg.DATASETS.TRAIN

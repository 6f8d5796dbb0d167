import pytest

from mta_clip.data.synonyms import are_seen, find_classes, split_synonyms


def test_synonyms_are_separated_by_semicolons():
    assert split_synonyms(" person;man ; a woman") == ["person", "man", "a woman"]
    assert split_synonyms("door, double door") == ["door, double door"]


@pytest.mark.parametrize("name", ["", "car;", ";car", "car; ;bus"])
def test_an_empty_synonym_is_an_error(name):
    with pytest.raises(ValueError, match="empty"):
        split_synonyms(name)


def test_classes_are_found_by_any_synonym_whatever_their_order():
    among = ["sky", "Person;human", "car;auto", "human"]
    assert find_classes(["man;human", "auto", "tree", "SKY", "skyline"], among) == [1, 2, -1, 0, -1]


def test_classes_that_share_a_synonym_find_themselves():
    among = ["closet", "wardrobe;closet", "Closet;press"]
    assert find_classes(["closet; press", "Wardrobe;closet", "closet", "press"], among) == [2, 1, 0, 2]


def test_names_are_seen_if_a_class_with_labels_is_called_so():
    trained, held_out = ["sky", "Person;human", "car", "human"], ["human", "car"]
    seen = are_seen(["HUMAN;man", "Car", "sky;air", "tree"], trained=trained, held_out=held_out)
    assert seen == [True, False, True, False]
    assert are_seen(trained, trained=trained, held_out=held_out) == [True, True, False, False]  # each by itself
    assert are_seen(["human"], trained=trained) == [True]

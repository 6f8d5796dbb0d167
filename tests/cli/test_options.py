import argparse

import pytest

from mta_clip.cli.options import (
    add_config_options,
    add_names_option,
    add_other_options,
    add_process_options,
    other_of,
    parse,
)


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    add_process_options(parser)
    return parse(parser, arguments)


def test_options_may_follow_the_pairs():
    args = parsed("--num-gpus", "2", "SEED", "1", "--config-file", "a.yaml", "SOLVER.BASE_LR", "-1e-3")
    assert (args.num_gpus, args.config_file) == (2, "a.yaml")
    assert args.opts == ["SEED", "1", "SOLVER.BASE_LR", "-1e-3"]


@pytest.mark.parametrize("wrong", [["--resumee"], ["SEED", "1", "--resumee"], ["--seed", "1"]])
def test_unknown_options_are_errors(wrong, capsys):
    with pytest.raises(SystemExit):
        parsed(*wrong)
    assert f"unrecognized arguments: {wrong[-1] if len(wrong) != 2 else '--seed'}" in capsys.readouterr().err


def test_a_command_without_a_config_takes_no_pairs(capsys):
    with pytest.raises(SystemExit):
        parse(argparse.ArgumentParser(), ["SEED", "1"])
    assert "unrecognized arguments: SEED 1" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--names", "--labels"])
def test_names_are_typed_or_in_a_file(option, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_names_option(parser)
    (tmp_path / "names.txt").write_text("# of streets\nsky; heavens\t1 2 3\nroad\n")
    assert parser.parse_args([option, "sky, my cat"]).names == ["sky", "my cat"]
    assert parser.parse_args([option, str(tmp_path / "names.txt")]).names == ["sky; heavens", "road"]
    with pytest.raises(SystemExit):
        parser.parse_args([option, str(tmp_path / "gone.txt")])
    assert "gone.txt: no such class list" in capsys.readouterr().err


def test_the_threshold_that_the_help_names(capsys):
    parser = argparse.ArgumentParser()
    add_other_options(parser)
    name, threshold = other_of(parser.parse_args(["--other", "rest"]))
    assert name == "rest" and f"(default: {threshold})" in " ".join(parser.format_help().split())
    assert other_of(parser.parse_args([])) is None

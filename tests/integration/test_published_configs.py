"""Configs resolve to what the authors have, row by row of a table, and ours differ from theirs only where they say so.

published/*.yaml: path of a config -> {KEY: [value, source], plain_differs: {KEY: why}}. `plain_differs` names every key
in which the file without `_published` in its name resolves to another value. Entries whose name is no path under
configs/ only hold rows that several files share.
"""

from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode
from scripts import ROOT
from shipped_configs import BASES, FILES, bases_of

from mta_clip.config_loader import load_config

TABLES = {
    config: rows
    for table in sorted((Path(__file__).parent / "published").glob("*.yaml"))
    for config, rows in yaml.safe_load(table.read_text()).items()
    if config.startswith("configs/")
}
SUFFIX = "_published"


def path_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def resolved(path: Path) -> dict:
    """The values of a config by their whole key; tuples as lists."""
    return leaves(load_config(str(path), []))


def leaves(node: dict, prefix: str = "") -> dict:
    found = {}
    for name, value in node.items():
        if isinstance(value, CfgNode):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def plain_sibling(path: Path) -> Path:
    return path.with_name(path.name.replace(SUFFIX, ""))


def keys_without_reason(path: Path, keys: set[str]) -> set[str]:
    """Those of the keys that a YAML sets without a comment, on the key's line or on the one above."""
    text = path.read_text()
    lines = ["", *text.splitlines()]

    def walk(node: yaml.Node, prefix: str = "") -> set[str]:
        found = set()
        for name, value in node.value:
            key = f"{prefix}{name.value}"
            above, own = lines[name.start_mark.line], lines[name.start_mark.line + 1]
            if isinstance(value, yaml.MappingNode):
                found |= walk(value, f"{key}.")
            elif key in keys and " # " not in own and not above.lstrip().startswith("#"):
                found.add(key)
        return found

    return walk(yaml.compose(text))


def test_every_published_config_has_a_table():
    published = {
        path_of(path)
        for path in FILES
        if SUFFIX in path.stem
        or (path.stem.startswith(("mask2former_r", "mask2former_swin")) and not path.stem.endswith("_imagenet"))
    }
    assert len(published) >= 5
    assert published <= set(TABLES)


def test_no_published_config_rests_on_our_choices():
    """None of its bases is the plain sibling of a published base."""
    plain = {plain_sibling(base) for base in BASES if SUFFIX in base.stem}
    for path in FILES:
        if SUFFIX in path.stem:
            assert not plain & set(bases_of(path)), path


@pytest.mark.parametrize("config", TABLES)
def test_resolves_to_the_authors_values(config):
    values = resolved(ROOT / config)
    rows = {key: row for key, row in TABLES[config].items() if key != "plain_differs"}
    assert len(rows) > 20
    assert {key: values.get(key, "no such key") for key in rows} == {key: value for key, (value, _) in rows.items()}
    assert [key for key, (_, source) in rows.items() if not isinstance(source, str) or len(source) < 3] == []


@pytest.mark.parametrize("config", [config for config in TABLES if SUFFIX in config])
def test_ours_differ_only_where_they_say_why(config):
    published, plain = ROOT / config, plain_sibling(ROOT / config)
    named = TABLES[config].get("plain_differs", {})
    if not plain.is_file():
        assert not named, f"{config} has plain_differs, but {path_of(plain)} does not exist"
        return
    theirs, ours = resolved(published), resolved(plain)
    differing = {key for key in ours if ours[key] != theirs[key]} - {"OUTPUT_DIR"}
    assert differing == set(named)
    assert all(isinstance(why, str) and why for why in named.values())
    own_files = {plain, *bases_of(plain)} - {published, *bases_of(published)}
    assert {path_of(path): keys for path in own_files if (keys := keys_without_reason(path, differing))} == {}

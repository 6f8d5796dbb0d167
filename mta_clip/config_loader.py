"""Loads a config from a YAML file and KEY VALUE pairs; every script and tool loads its config here."""

import difflib
import io
import logging
import math
import re
from collections.abc import Sequence
from typing import IO, Any

import yaml
from detectron2.config import CfgNode

from .config import get_cfg
from .config_names import find_config
from .config_values import check_values, values

logger = logging.getLogger(__name__)

_PYTHON_TAG = re.compile(r"!!python/[^\s\[{'\"]*|tag:yaml\.org,2002:python/[^\s>\[{'\"]*")
_MOST_VALUES = 1_000_000  # in a YAML file; aliases (*name) can make billions of a few lines
_YAML_PREFIX = "tag:yaml.org,2002:"  # what !! stands for in a tag


def load_config(config_file: str, overrides: list[Any]) -> CfgNode:
    """Merges the defaults, a YAML file with its bases, and KEY VALUE pairs, in this order; the last value wins.

    `_BASE_` in a file names one base or a list of them, relative to that file. A later base overrides an earlier one,
    and the file overrides all its bases.

    YAML is loaded safely: a tag that would run code (`!!python/...`) is an error in the file, in a base and in an
    override.

    Args:
        config_file: path, or name such as "camvid/mta_clip_small" (see `find_config`); "" for the defaults alone.
        overrides: KEY, VALUE, KEY, VALUE, ...

    Raises:
        FileNotFoundError: the config file or a base does not exist.
        KeyError: unknown key; the message suggests the closest known ones.
        ValueError: a file that is not a mapping of plain YAML values (a million at most) or is its own base, a refused
            tag, a value of the wrong type, or a key without a value.
    """
    config_file = find_config(config_file) if config_file else ""
    _check_overrides(overrides)
    content = _read_with_bases(config_file) if config_file else {}
    return _merge(get_cfg(), content, overrides, config_file)


def parse_config(text: str, *, where: str, overrides: Sequence[Any] = ()) -> CfgNode:
    """Reads a config from YAML text, as `load_config` does from a file; for configs saved inside checkpoints.

    Args:
        where: what error messages call the text.
        overrides: KEY, VALUE, KEY, VALUE, ...

    Raises:
        KeyError, ValueError: see `load_config`.
    """
    _check_overrides(overrides)
    try:
        content = _parse_plain_yaml(text, where)
    except RecursionError as error:
        raise ValueError(f"{where}: its values are nested too deeply") from error
    return _merge(get_cfg(), content, list(overrides), where)


def _merge(cfg: CfgNode, content: dict, overrides: list[Any], config_file: str) -> CfgNode:
    _check_sections(content, cfg, config_file)
    try:
        # Not merge_from_file, which loads unsafely, and guesses and upgrades the version of a Detectron2 config.
        cfg.merge_from_other_cfg(CfgNode(content))
        upgrade_old_keys(cfg)  # before the overrides, so that these override the file under either name
        cfg.merge_from_list(overrides)
        upgrade_old_keys(cfg)
    except KeyError as error:
        raise KeyError(_explain_unknown_key(str(error.args[0]), cfg, config_file)) from error
    except AssertionError as error:  # how yacs reports an unknown or malformed key among the overrides
        raise KeyError(_explain_unknown_key(str(error), cfg, config_file)) from error
    check_values(cfg, config_file)
    return cfg


def _check_sections(content: dict, cfg: CfgNode, where: str, above: str = "") -> None:
    """Raises a ValueError if a value takes the place of a section; yacs's message would hold the whole section."""
    for name, value in content.items():
        if isinstance(cfg.get(name), CfgNode):
            if not isinstance(value, dict):
                raise ValueError(f"{where}: {above}{name} is {value!r:.60}, but it is a section; expected keys in it")
            _check_sections(value, cfg[name], where, f"{above}{name}.")


def upgrade_old_keys(cfg: CfgNode) -> None:
    """Translates values of keys that have a new name or a new meaning, in place and with a warning.

    MODEL.TAGCLIP.PROTOCOL is now DATASETS.PROTOCOL. Inductive training of TagCLIP with MODEL.TAGCLIP.TRUSTY_TARGET
    unseen, which read labels of unseen classes, is now inductive_released. TagCLIP used to ignore MODEL.BACKBONE.NAME
    and MODEL.SEM_SEG_HEAD.NAME; where they still have the defaults, which name MTA-CLIP's encoder and head, they are
    set to TagCLIP's.
    """
    _upgrade_protocol(cfg)
    if cfg.MODEL.META_ARCHITECTURE != "TagCLIP":
        return
    for node, default, own in (
        ("BACKBONE", "CLIPImageEncoder", "PromptedImageEncoder"),
        ("SEM_SEG_HEAD", "MaskTextHead", "TrustyHead"),
    ):
        if default == cfg.MODEL[node].NAME:
            logger.warning("MODEL.%s.NAME is %s, which TagCLIP cannot use; it is set to %s", node, default, own)
            cfg.MODEL[node].NAME = own


def _upgrade_protocol(cfg: CfgNode) -> None:
    node = cfg.MODEL.TAGCLIP
    old = node.PROTOCOL
    if not old:
        return
    reads_unseen = cfg.MODEL.META_ARCHITECTURE == "TagCLIP" and node.TRUSTY_TARGET == "unseen"
    new = "inductive_released" if old == "inductive" and reads_unseen else old
    logger.warning(
        "MODEL.TAGCLIP.PROTOCOL %s: the key is now DATASETS.PROTOCOL, which is set to %s (was %s). Please rename it.",
        old,
        new,
        cfg.DATASETS.PROTOCOL,
    )
    cfg.DATASETS.PROTOCOL, node.PROTOCOL = new, ""


class _PlainYaml(CfgNode):
    """Reads YAML files and their bases as Detectron2 does, and checks each file as it is opened."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        with super()._open_cfg(filename) as file:
            try:
                text = file.read()
            except UnicodeDecodeError as error:
                raise ValueError(f"{filename} is not a text in UTF-8: {error}") from error
        _parse_plain_yaml(text, filename)
        return io.StringIO(text)


def _parse_plain_yaml(text: str, where: str) -> dict:
    try:
        content = yaml.safe_load(text)
    except yaml.constructor.ConstructorError as error:
        tag = re.search(r"the tag '(.*)'", str(error.problem))
        if tag is None:  # such as a list where a key is expected
            raise ValueError(f"{where} is not valid YAML: {error}") from error
        line = error.problem_mark.line + 1
        raise ValueError(_refusal(f"{where}, line {line}", tag.group(1))) from error
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not valid YAML: {error}") from error
    if _num_values(content, {}) > _MOST_VALUES:
        raise ValueError(f"{where}: aliases (*name) stand for more than {_MOST_VALUES} values; write out what is meant")
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds {content!r:.60}; expected config keys and their values (KEY: VALUE)")
    bases = content.get("_BASE_", [])
    if not all(isinstance(base, str) for base in (bases if isinstance(bases, list) else [bases])):
        raise ValueError(f"{where}: _BASE_ is {bases!r:.60}; expected the name of a file, or a list of such names")
    _check_section(content, where)
    return content


def _num_values(content: Any, known: dict[int, float]) -> float:
    """How many values YAML has with every alias written out; `known` are the numbers of lists and mappings by id."""
    if not isinstance(content, (list, dict)):
        return 1
    if id(content) not in known:
        known[id(content)] = math.inf  # of one that holds itself
        values = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_num_values(value, known) for value in values)
    return known[id(content)]


def _check_section(section: dict, where: str, above: str = "") -> None:
    """Raises a ValueError if a name is no string, or a value of a kind that no config has, such as a date."""
    for key, value in section.items():
        if not isinstance(key, str):
            raise ValueError(f"{where}: {above}{key!r:.60} is no name of a config key; expected names such as SEED")
        if isinstance(value, dict):
            _check_section(value, where, f"{above}{key}.")
        elif not isinstance(value, list | str | int | float | type(None)):
            raise ValueError(f"{where}: {above}{key} is a {type(value).__name__}; put quotes around it if it is text")


def _read_with_bases(config_file: str) -> dict:
    try:
        return _PlainYaml.load_yaml_with_base(config_file, allow_unsafe=False)
    except AssertionError as error:  # how fvcore reports a section over a value of the same name
        raise ValueError(f"{config_file} and its _BASE_ do not fit together: {error}") from error
    except RecursionError as error:
        raise ValueError(
            f"{config_file}: a file is its own _BASE_, directly or through other files, or its values are nested too "
            "deeply"
        ) from error


def _check_overrides(overrides: Sequence[Any]) -> None:
    if len(overrides) % 2:
        shown = " ".join(map(str, overrides))
        raise ValueError(f"overrides must be KEY VALUE pairs, but {overrides[-1]!r} has no partner in: {shown}")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        # yacs would not run the tag, but would take it for a string, such as the name of a folder.
        if found := _PYTHON_TAG.search(str(value)):
            raise ValueError(_refusal(f"override {key}", found.group()))


def _refusal(where: str, tag: str) -> str:
    return (
        f"{where}: the tag {tag.replace(_YAML_PREFIX, '!!')} is refused, as it could run code; a config holds plain "
        "values only (numbers, strings, True and False, lists, mappings). Remove the tag, or write the value out."
    )


def _explain_unknown_key(message: str, cfg: CfgNode, config_file: str) -> str:
    key = message.rsplit(": ", 1)[-1].strip()
    known = [name for name, _ in values(cfg)]
    close = difflib.get_close_matches(key, known, n=3)
    close = close or [name for name in known if name.split(".")[-1] == key.split(".")[-1]][:3]
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    return f"unknown config key {key} (in {config_file or 'the defaults'} or the overrides){hint}"

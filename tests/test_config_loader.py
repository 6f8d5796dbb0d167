"""Defaults, files, bases and overrides make a config; nothing in any of them is ever executed."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from scripts import ROOT

from mta_clip.cli.main import main
from mta_clip.config import get_cfg
from mta_clip.config_loader import load_config, upgrade_old_keys


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump({"SOLVER": {"MAX_ITER": 12}, "MODEL": {"DEVICE": "cpu"}, "SEED": 5}))
    return path


def test_file_then_overrides(config_file):
    cfg = load_config(str(config_file), ["SOLVER.BASE_LR", "0.5", "INPUT.CROP.SIZE", "[64, 96]"])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, list(cfg.INPUT.CROP.SIZE)) == (12, 0.5, [64, 96])


@pytest.mark.parametrize(
    ("key", "suggestion"), [("SOLVER.BASE_LRR", "SOLVER.BASE_LR"), ("MODEL.MAX_ITER", "SOLVER.MAX_ITER")]
)
def test_unknown_key_among_the_overrides(config_file, key, suggestion):
    with pytest.raises(KeyError, match=rf"unknown config key {key} .*did you mean .*{suggestion}"):
        load_config(str(config_file), [key, "1"])


def test_unknown_key_in_the_file(config_file):
    config_file.write_text("SOLVER:\n  MAX_ITERS: 3\n")
    with pytest.raises(KeyError, match=r"unknown config key SOLVER.MAX_ITERS .*base.yaml.*mean SOLVER.MAX_ITER"):
        load_config(str(config_file), [])


def test_unknown_section(config_file):
    with pytest.raises(KeyError, match=r"unknown config key SOLVERS.MAX_ITER .*did you mean SOLVER.MAX_ITER"):
        load_config(str(config_file), ["SOLVERS.MAX_ITER", "1"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.MAX_ITER"], "'SOLVER.MAX_ITER' has no partner"),
        (["SOLVER.MAX_ITER", "many"], "Type mismatch"),
    ],
)
def test_bad_values(config_file, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config(str(config_file), overrides)


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"no_such.yaml does not exist"):
        load_config("no_such.yaml", [])


def write(folder: Path, **texts: str) -> str:
    """Writes NAME=text as NAME.yaml and returns the path of the last one."""
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.write_text(text)
    return str(path)


@pytest.mark.parametrize("overrides", [[], ["SEED", "9"]])
def test_later_bases_hold_over_earlier_ones_and_the_file_over_all(tmp_path, overrides):
    path = write(
        tmp_path,
        root="SEED: 1\nOUTPUT_DIR: root\nVIS_PERIOD: 1\n",
        first="_BASE_: root.yaml\nSEED: 2\nSOLVER: {MAX_ITER: 2, BASE_LR: 0.2}\nINPUT: {CROP: {SIZE: [2, 2]}}\n",
        second="_BASE_: root.yaml\nSEED: 3\nSOLVER: {MAX_ITER: 3}\nTEST: {EVAL_PERIOD: 3}\n",
        model="_BASE_: [first.yaml, second.yaml]\nSEED: 4\nTEST: {EVAL_PERIOD: 4}\n",
    )
    cfg = load_config(path, overrides)
    assert (9 if overrides else 4) == cfg.SEED  # override > file > bases
    assert cfg.TEST.EVAL_PERIOD == 4
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (3, 0.2)  # sections merge key by key
    assert list(cfg.INPUT.CROP.SIZE) == [2, 2]
    assert cfg.OUTPUT_DIR == "root"
    swapped = write(tmp_path, model="_BASE_: [second.yaml, first.yaml]\n")
    assert (load_config(swapped, []).SEED, load_config(swapped, []).SOLVER.MAX_ITER) == (2, 2)


def test_a_base_is_found_from_the_file_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "deep" / "model").mkdir(parents=True)
    write(tmp_path, base="SEED: 7\n")
    path = write(tmp_path / "deep" / "model", model='_BASE_: ["../../base.yaml"]\n')
    monkeypatch.chdir(tmp_path / "deep")
    assert load_config(path, []).SEED == load_config("model/model.yaml", []).SEED == 7


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ValueError, r"model\.yaml holds None; expected config keys"),
        ("- SEED\n- 3\n", ValueError, r"model\.yaml holds \['SEED', 3\]; expected config keys"),
        ("SEED: [1\n", ValueError, r"model\.yaml is not valid YAML: .*line 2"),
        ("? [SEED]\n: 1\n", ValueError, r"model\.yaml is not valid YAML: .*unhashable"),
        ("_BASE_: none.yaml\n", FileNotFoundError, r"none\.yaml"),
        ("_BASE_: model.yaml\n", ValueError, r"model\.yaml: a file is its own _BASE_"),
        ("_BASE_: 3\n", ValueError, r"model\.yaml: _BASE_ is 3; expected the name of a file"),
        ("_BASE_: [[model.yaml]]\n", ValueError, r"model\.yaml: _BASE_ is \[\['model\.yaml'\]\]; expected"),
        ("MODEL: {1: 2}\n", ValueError, r"model\.yaml: MODEL\.1 is no name of a config key"),
        ("OUTPUT_DIR: 2026-01-01\n", ValueError, r"model\.yaml: OUTPUT_DIR is a date; put quotes around it"),
        ("_BASE_: [base.yaml]\nSEED: {MAX_ITER: 3}\n", ValueError, r"model\.yaml and its _BASE_ .*'SEED'"),
    ],
)
def test_bad_files(config_file, tmp_path, text, error, message):
    path = write(tmp_path, model=text)
    with pytest.raises(error, match=f"(?s){message}"):
        load_config(path, [])


def test_a_file_in_another_encoding(tmp_path):
    (tmp_path / "model.yaml").write_bytes("OUTPUT_DIR: Straße".encode("latin-1"))
    with pytest.raises(ValueError, match=r"model\.yaml is not a text in UTF-8"):
        load_config(str(tmp_path / "model.yaml"), [])


RUN = "!!python/object/apply:os.system"
REFUSED = r"the tag !!python/object/apply:os\.system is refused"
# Every command that takes a config, with its other arguments; {folder} is a temporary one.
COMMANDS = {
    "mta_clip/cli/train.py": [],
    "mta_clip/cli/evaluate.py": [],
    "mta_clip/cli/predict.py": ["--input", "{folder}", "--output", "{folder}/out"],
    "mta_clip/cli/label.py": ["--input", "{folder}", "--output", "{folder}/out"],
    "mta_clip/cli/export.py": ["--output", "{folder}/model.pt2"],
    "mta_clip/cli/check.py": ["shapes_sem_seg_val", "--output", "{folder}/out"],
    "tools/analyze_contexts.py": ["--output", "{folder}/out"],
    "tools/convert_checkpoint.py": ["--source", "mta-clip", "{folder}/released.pth", "{folder}/ours.safetensors"],
    "tools/export_benchmark.py": [],
    "tools/pretrain_tiny_clip.py": ["--output", "{folder}/clip.pth"],
    "tools/synonym_benchmark.py": ["--output", "{folder}/out"],
    "tools/zero_shot_benchmark.py": ["--output", "{folder}/out"],
}
WITHOUT_OVERRIDES = {"mta_clip/cli/check.py", "tools/pretrain_tiny_clip.py"}


def run(command: str, arguments: list[str], monkeypatch) -> None:
    """Runs a command in this process, as `mta-clip check` or `python tools/analyze_contexts.py` would."""
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    if command.startswith("mta_clip/cli/"):
        sys.exit(main([Path(command).stem, *arguments]))
    runpy.run_path(str(ROOT / command), run_name="__main__")


def complaint(command: str, arguments: list[str], monkeypatch, caplog, capsys) -> str:
    """What a command that must fail says, whether it raises or reports and exits with 1."""
    with pytest.raises((ValueError, SystemExit)) as raised:
        run(command, arguments, monkeypatch)
    if isinstance(raised.value, SystemExit):
        assert raised.value.code == 1
    return f"{raised.value}\n{caplog.text}\n{capsys.readouterr().err}"


def test_all_commands_with_a_config_are_listed():
    files = [*ROOT.glob("*.py"), *(ROOT / "tools").glob("*.py"), *(ROOT / "mta_clip").rglob("*.py")]
    commands = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if ('__name__ == "__main__"' in (text := path.read_text()) or "DESCRIPTION =" in text)
        and ("load_config" in text or "add_config_options" in text)
        # shows configs; take configs of their own only
        and path.name not in ("info.py", "benchmark_worker.py", "gpu_stages.py")
    }
    assert commands == set(COMMANDS)


def test_yaml_is_read_in_one_place():
    """No other way of loading a config is used: Detectron2's merge_from_file runs tags."""
    folders = ("mta_clip", "tools", "datasets")
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    loads = ("merge_from_file(", "load_yaml_with_base(", "allow_unsafe=True", "yaml.load(", "unsafe_load")
    readers = {path.name for path in files if any(load in path.read_text() for load in loads)}
    # The second one imports the user's checkout, and so runs its code anyway.
    assert readers == {"config_loader.py", "official_mask2former.py"}


# Every command reads the file and takes its overrides in one place each; how bases are found does not depend on it.
PLACES = [(command, "file") for command in COMMANDS]
PLACES += [(command, "override") for command in COMMANDS if command not in WITHOUT_OVERRIDES]
PLACES += [(f"mta_clip/cli/{name}.py", where) for name, where in (("train", "base"), ("check", "second base"))]


@pytest.mark.parametrize(("command", "where"), PLACES)
def test_no_command_runs_a_tag(command, where, tmp_path, datasets_root, monkeypatch, caplog, capsys):
    proof = tmp_path / "proof"
    monkeypatch.chdir(tmp_path)  # where a tag taken for a folder name would end up
    harmful = f"{RUN} ['touch {proof}']"
    torch.save({"state_dict": {"backbone.conv1.weight": torch.ones(2, 3, 3, 3)}}, tmp_path / "released.pth")
    path = write(tmp_path, clean="SEED: 1\n", harmful=f"SEED: 1\nOUTPUT_DIR: {harmful}\n")
    named = rf"harmful\.yaml, line 2: {REFUSED}"
    if where == "base":
        path = write(tmp_path, model="_BASE_: harmful.yaml\n")
    elif where == "second base":
        path = write(tmp_path, model="_BASE_: [clean.yaml, harmful.yaml]\n")
    overrides = []
    if where == "override":
        path, overrides = str(tmp_path / "clean.yaml"), ["OUTPUT_DIR", harmful]
        named = rf"override OUTPUT_DIR: {REFUSED}"
    arguments = [argument.format(folder=tmp_path) for argument in COMMANDS[command]]
    said = complaint(command, ["--config-file", path, *arguments, *overrides], monkeypatch, caplog, capsys)
    assert re.search(named, said), said
    assert not proof.exists()


@pytest.mark.parametrize(
    "text",
    [
        "OUTPUT_DIR: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch {proof}']",
        "DATASETS: {{FOLDERS: [{{name: !!python/object/new:os.system ['touch {proof}']}}]}}",
        "? !!python/name:os.system\n: 1",
    ],
)
def test_other_spellings_are_refused(tmp_path, text):
    proof = tmp_path / "proof"
    with pytest.raises(ValueError, match=r"model\.yaml, line 1: the tag !!python/\S+ is refused"):
        load_config(write(tmp_path, model=text.format(proof=proof)), [])
    with pytest.raises(ValueError, match=r"override OUTPUT_DIR: the tag !!python/\S+ is refused"):
        load_config("", ["OUTPUT_DIR", text.format(proof=proof)])
    assert not proof.exists()


def test_unknown_tags_are_refused_too(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: the tag !secret is refused"):
        load_config(write(tmp_path, model="OUTPUT_DIR: !secret folder\n"), [])


OLD = "MODEL.TAGCLIP.PROTOCOL"


@pytest.mark.parametrize(
    ("architecture", "old", "target", "new"),
    [
        ("TagCLIP", "inductive", "seen", "inductive"),
        ("TagCLIP", "inductive", "unseen", "inductive_released"),  # what it used to do with the labels
        ("TagCLIP", "transductive", "unseen", "transductive"),
        ("TagCLIP", "supervised", "seen", "supervised"),
        ("MTACLIP", "inductive", "unseen", "inductive"),
    ],
)
def test_the_old_name_of_the_protocol(architecture, old, target, new, caplog):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.TAGCLIP.PROTOCOL, cfg.MODEL.TAGCLIP.TRUSTY_TARGET = old, target
    upgrade_old_keys(cfg)
    assert (new, "") == (cfg.DATASETS.PROTOCOL, cfg.MODEL.TAGCLIP.PROTOCOL)
    assert f"MODEL.TAGCLIP.PROTOCOL {old}: the key is now DATASETS.PROTOCOL, which is set to {new}" in caplog.text


def test_tagclip_gets_its_own_parts_where_an_old_file_names_the_defaults(caplog):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "TagCLIP"
    upgrade_old_keys(cfg)
    assert (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.SEM_SEG_HEAD.NAME) == ("PromptedImageEncoder", "TrustyHead")
    assert "MODEL.BACKBONE.NAME is CLIPImageEncoder, which TagCLIP cannot use" in caplog.text
    cfg.MODEL.BACKBONE.NAME = "MyEncoder"
    upgrade_old_keys(cfg)
    assert cfg.MODEL.BACKBONE.NAME == "MyEncoder"


def test_nothing_to_upgrade(caplog):
    cfg = get_cfg()
    upgrade_old_keys(cfg)
    assert cfg == get_cfg() and not caplog.text


@pytest.mark.parametrize(
    ("text", "overrides", "protocol"),
    [
        ("MODEL: {TAGCLIP: {PROTOCOL: supervised}}", [], "supervised"),
        ("_BASE_: base.yaml\nMODEL: {TAGCLIP: {PROTOCOL: transductive}}", [], "transductive"),
        ("MODEL: {TAGCLIP: {PROTOCOL: supervised}}", ["DATASETS.PROTOCOL", "inductive"], "inductive"),
        ("DATASETS: {PROTOCOL: supervised}", [OLD, "transductive"], "transductive"),
        (
            "MODEL: {META_ARCHITECTURE: TagCLIP, TAGCLIP: {PROTOCOL: inductive, TRUSTY_TARGET: unseen}}",
            [],
            "inductive_released",
        ),
    ],
)
def test_old_configs_keep_working(tmp_path, text, overrides, protocol, caplog):
    path = write(tmp_path, base="DATASETS: {PROTOCOL: supervised}\n", model=text)
    cfg = load_config(path, overrides)
    found = cfg.DATASETS.PROTOCOL
    assert found == protocol
    assert cfg.MODEL.TAGCLIP.PROTOCOL == ""
    assert "the key is now DATASETS.PROTOCOL" in caplog.text
    caplog.clear()
    saved = load_config(write(tmp_path, saved=cfg.dump()), [])  # a config.yaml saved now has the new name only
    assert yaml.safe_load(saved.dump()) == yaml.safe_load(cfg.dump())
    assert not caplog.text

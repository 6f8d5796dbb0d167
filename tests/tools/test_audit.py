import importlib.metadata
import json
import subprocess

import pytest
from scripts import ROOT, load_script


@pytest.fixture(scope="module")
def audit():
    return load_script("tools/audit.py")


@pytest.fixture
def tools(audit, monkeypatch):
    """What pip-audit and bandit print, by name; an error without."""
    printed = {}

    def run(command, **options):
        text = printed.get(next(part for part in command if part in ("pip-audit", "bandit")), "")
        return subprocess.CompletedProcess(command, not text, text, "" if text else "error: no network\n")

    monkeypatch.setattr(audit.subprocess, "run", run)
    return printed


def test_the_installed_files_are_the_official_ones(audit):
    try:
        importlib.metadata.version("detectron2-cdo")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("another distribution of Detectron2 is installed")
    said = "all 158 Python files of detectron2-cdo 0.5 are those of the official tag v0.5"
    assert list(audit.installed_files()) == [("ok", said)]


def test_every_difference_is_named(audit, tmp_path):
    folder = tmp_path / "detectron2"
    (folder / "engine").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "engine" / "hooks.py").write_text("import os  # not there before\n")
    (folder / "extra.py").write_text("")
    (folder / "_C.so").touch()  # no Python file
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # sha256 of nothing
    official = {f"detectron2/{name}": empty for name in ("__init__.py", "engine/hooks.py", "gone.py")}
    assert audit.differences(tmp_path, official) == [
        "missing: detectron2/gone.py",
        "differs: detectron2/engine/hooks.py",
        "not official: detectron2/extra.py",
    ]
    (folder / "extra.py").unlink()
    (folder / "engine" / "hooks.py").write_text("")
    (folder / "gone.py").touch()
    assert audit.differences(tmp_path, official) == []


class Installed:
    def __init__(self, version, folder):
        self.version, self.folder = version, folder

    def locate_file(self, path):
        return self.folder / path


@pytest.mark.parametrize(("version", "said"), [("0.6", "0.6 is installed, expected 0.5"), ("0.5", "158 differences")])
def test_other_files_fail(audit, tools, tmp_path, monkeypatch, capsys, version, said):
    monkeypatch.setattr(audit.importlib.metadata, "distribution", lambda name: Installed(version, tmp_path))
    assert audit.main() == 1
    assert said in capsys.readouterr().out


def test_without_detectron2_and_network_it_says_what_it_did_not_check(audit, tools, monkeypatch, capsys):
    def distribution(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(audit.importlib.metadata, "distribution", distribution)
    monkeypatch.setattr(audit, "archive", lambda lock: [])
    assert audit.main() == 0
    lines = capsys.readouterr().out.splitlines()
    reasons = ("nothing to compare", "pip-audit did not run (error: no network)", "bandit did not run")
    for line, reason in zip(lines, reasons, strict=True):
        assert line.startswith("NOT CHECKED ") and reason in line


LOCKED = 'sdist = {{ url = "https://example.org/detectron2_cdo-0.5.tar.gz", hash = "{}" }}'


def test_the_archive_is_the_pinned_one(audit, tmp_path):
    lock = tmp_path / "uv.lock"
    assert [kind for kind, _ in audit.archive(lock)] == ["NOT CHECKED"]
    (pin,) = (word.removeprefix("--hash=") for word in audit.PIN.read_text().split() if word.startswith("--hash="))
    for digest, kind in ((pin, "ok"), ("sha256:" + "0" * 64, "FOUND")):
        lock.write_text(LOCKED.format(digest))
        assert [found for found, _ in audit.archive(lock)] == [kind]
    if (ROOT / "uv.lock").is_file():
        assert [kind for kind, _ in audit.archive(ROOT / "uv.lock")] == ["ok"]


def test_pip_audit_and_bandit_are_read(audit, tools):
    known = {"id": "PYSEC-1", "fix_versions": ["2.1"]}
    packages = [{"name": "a", "version": "2.0", "vulns": [known]}, {"name": "b", "version": "1", "vulns": []}]
    tools["pip-audit"] = json.dumps({"dependencies": [*packages, {"name": "c", "skip_reason": "not on PyPI"}]})
    assert list(audit.vulnerabilities()) == [
        ("FOUND", "a 2.0: PYSEC-1, mended in 2.1"),
        ("ok", "2 installed packages looked up by pip-audit"),
        ("NOT CHECKED", "1 packages that pip-audit could not look up: c"),
    ]
    issue = {"filename": "x.py", "line_number": 3, "test_id": "B301", "issue_text": "pickle"}
    tools["bandit"] = json.dumps({"results": [issue], "metrics": {"_totals": {"loc": 7}}})
    assert list(audit.dangerous_calls()) == [
        ("FOUND", "x.py:3: B301 pickle"),
        ("ok", "7 lines of code searched by bandit"),
    ]

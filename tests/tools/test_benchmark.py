import json
import sys

import pytest
from official_stand_in import make_checkout
from scripts import ROOT, load_script


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))  # where official_mask2former.py is
    return load_script("tools/benchmark.py")


def result(peer, median, fastest, output):
    return {
        "peer": peer,
        "mode": "infer",
        "batch": 2,
        "seconds": {"median": median, "min": fastest, "max": 2 * median},
        "stages": {"encoder": median - output, "output": output},
        "start_memory_mib": 100,
        "peak_memory_mib": 130,
    }


def test_ratios_are_of_medians_and_of_the_fastest_rounds(benchmark):
    results = [
        result(benchmark.TRANSFORMERS, 4.0, 2.0, 1.82),
        result("ours", 1.0, 0.9, 0.1),
        result(benchmark.OFFICIAL, 5.0, 4.5, 0.0),
    ]
    head, _, _, row, *_ = benchmark.table(results).splitlines()
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (head, row)), strict=True))
    assert cells["/ transformers"] == cells[f"/ {benchmark.TRANSFORMERS}"] == "0.25 (0.45)"
    assert cells["/ official"] == "0.20 (0.20)"
    assert cells["of it for the run"] == "30"
    assert cells["images/s"] == "2"
    assert "official" not in benchmark.table(results[:2])


def test_a_peer_names_its_data_type_and_whether_it_is_compiled(benchmark):
    assert benchmark.split_peer("ours") == ("ours", "", False)
    assert benchmark.split_peer("ours:bfloat16") == ("ours", "bfloat16", False)
    assert benchmark.split_peer("ours:bfloat16:compile") == ("ours", "bfloat16", True)
    assert benchmark.split_peer("ours:compile") == ("ours", "", True)


@pytest.mark.parametrize("peer", ["ours:int8", "ours:float32:bfloat16", "ours:compiled"])
def test_other_settings_of_a_peer_are_refused(benchmark, peer):
    with pytest.raises(ValueError, match=peer):
        benchmark.split_peer(peer)


def run(benchmark, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, options)])
    benchmark.main()


def test_a_checkout_of_the_official_model_is_a_peer(benchmark, monkeypatch, tmp_path, capfd):
    """In a process of its own, without our registrations, and with its compiled operator missing."""
    comparison = {"largest_difference": 1.5e-5, "largest_score": 2.0}
    monkeypatch.setattr(benchmark, "compare_with_official", lambda args: comparison)
    options = ["--official", make_checkout(tmp_path), "--peers", f"{benchmark.OFFICIAL}:bfloat16", "--size", 32]
    run(benchmark, monkeypatch, *options, "--rounds", 1, "--threads", 1, "--json", tmp_path / "report.json")
    out, err = capfd.readouterr()
    assert "scores up to 2, largest difference 1.5e-05" in out and "/ official" in out
    assert "the stand-in is imported" in err  # what it prints does not get between the answers
    (report,) = json.loads((tmp_path / "report.json").read_text())
    assert [row["peer"] for row in report["results"]] == [f"{benchmark.OFFICIAL}:bfloat16", benchmark.OFFICIAL]
    assert report["settings"]["largest_difference"] == 1.5e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--official", "nowhere"],
            "nowhere is no checkout of https://github.com/facebookresearch/Mask2Former: ",
        ),
        (["--official", "nowhere"], "nowhere/mask2former/__init__.py"),
        (["--official", "CHECKOUT", "--mode", "train"], "--official measures inference only"),
    ],
)
def test_what_official_cannot_measure_is_refused(benchmark, monkeypatch, tmp_path, capsys, options, message):
    checkout = make_checkout(tmp_path)
    with pytest.raises(SystemExit):
        run(benchmark, monkeypatch, *(checkout if option == "CHECKOUT" else option for option in options))
    assert message in capsys.readouterr().err

import json

import numpy as np
import pytest
from exported import tiny
from scripts import load_script


@pytest.fixture(scope="module")
def benchmark():
    return load_script("tools/export_benchmark.py")


def test_ratios_are_of_medians_and_of_the_fastest_rounds(benchmark):
    def result(peer, median, fastest, agreement):
        return {"peer": peer, "agreement": agreement, "seconds": {"median": median, "min": fastest, "max": 2 * median}}

    row = benchmark.table([result("eager", 4.0, 2.0, 1.0), result("fast", 1.0, 0.9, 0.995)]).splitlines()[-1]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["fast", "1.000", "0.900..2.000", "0.25 (0.45)", "99.50%"]


def test_peers_take_turns_and_are_compared_with_the_first(benchmark):
    order = []

    def peer(name, labels):
        def run(images):
            order.append(name)
            return np.array(labels)

        return run

    results = benchmark.measure({"a": peer("a", [0, 1, 2, 3]), "b": peer("b", [0, 1, 2, 0])}, None, rounds=2)
    assert order == ["a", "b"] * 3
    assert [result["agreement"] for result in results] == [1.0, 0.75]
    assert all(0 <= r["seconds"]["min"] <= r["seconds"]["median"] <= r["seconds"]["max"] for r in results)


def test_unknown_peers_are_refused(benchmark, tmp_path):
    args = benchmark.parse_arguments(["--config-file", "x.yaml", "--peers", "eager", "tflite"])
    with pytest.raises(ValueError, match="no peer tflite; there are eager, "):
        benchmark.build_peers(args, None, tmp_path)


@pytest.mark.slow
def test_all_peers_run(benchmark, tmp_path, capsys):
    pytest.importorskip("openvino", reason="pip install 'mta-clip[openvino]'")
    pytest.importorskip("onnxruntime", reason="pip install 'mta-clip[onnx]'")
    _, cfg = tiny("TagCLIP")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    report = tmp_path / "report.json"
    options = ["--size", "64", "64", "--threads", "1", "--rounds", "1", "--json", str(report)]
    benchmark.main(["--config-file", str(tmp_path / "config.yaml"), *options])
    results = json.loads(report.read_text())["results"]
    assert [result["peer"] for result in results] == list(benchmark.PEERS)
    assert all(r["agreement"] > (0.9 if "bfloat16" in r["peer"] else 0.999) for r in results)
    assert "| openvino:bfloat16 " in capsys.readouterr().out

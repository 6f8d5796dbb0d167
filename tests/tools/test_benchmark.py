import pytest
from scripts import load_script


@pytest.fixture(scope="module")
def benchmark():
    return load_script("tools/benchmark.py")


def result(peer, median, fastest, output):
    return {
        "peer": peer,
        "mode": "infer",
        "seconds": {"median": median, "min": fastest, "max": 2 * median},
        "stages": {"encoder": median - output, "output": output},
        "start_memory_mib": 100,
        "peak_memory_mib": 130,
    }


def test_ratios_are_of_medians_and_of_the_fastest_rounds(benchmark):
    results = [result(benchmark.TRANSFORMERS, 4.0, 2.0, 1.82), result("ours", 1.0, 0.9, 0.1)]
    row = next(line for line in benchmark.table(results).splitlines() if line.startswith("| ours"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells.count("0.25 (0.45)") == 2  # against the first peer, and against transformers
    assert "0.33" in cells  # 1 / ((4 - 1.82) * 1.52 / 1.09)
    assert cells[-2] == "30"


def test_a_peer_names_its_data_type_and_whether_it_is_compiled(benchmark):
    assert benchmark.split_peer("ours") == ("ours", "", False)
    assert benchmark.split_peer("ours:bfloat16") == ("ours", "bfloat16", False)
    assert benchmark.split_peer("ours:bfloat16:compile") == ("ours", "bfloat16", True)
    assert benchmark.split_peer("ours:compile") == ("ours", "", True)


@pytest.mark.parametrize("peer", ["ours:int8", "ours:float32:bfloat16", "ours:compiled"])
def test_other_settings_of_a_peer_are_refused(benchmark, peer):
    with pytest.raises(ValueError, match=peer):
        benchmark.split_peer(peer)

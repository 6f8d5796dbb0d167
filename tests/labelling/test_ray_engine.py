import functools
import os
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image
from toy_labelling import DEADLY, load_toy

from mta_clip.labelling import ray_engine
from mta_clip.labelling.index import Count
from mta_clip.labelling.inputs import Block, Input
from mta_clip.labelling.job import INDEX, Engine, label_images
from mta_clip.labelling.worker import Task


def test_plan(tmp_path, monkeypatch):
    """Actors rebuild the blocks from it."""
    monkeypatch.setattr(ray_engine, "PLAN_ROWS", 2)
    blocks = [Block(f"block{n}", (Input(f"/{n}.png", f"{n}.png"),) * n) for n in range(1, 4)]
    assert ray_engine._write_plan(iter(blocks), tmp_path / "plan") == 2
    seen = []

    def start(index):
        return lambda block: seen.append(block) or Count(len(block.inputs), 0)

    actor = ray_engine._Actor(start)
    for path in sorted((tmp_path / "plan").iterdir()):
        counts = actor(pyarrow.parquet.read_table(path))
    assert seen == blocks and counts == {"images": [3], "failed": [0]}


def load_and_tell(folder, device):
    """Leaves a file that names the node of the actor."""
    import ray

    (Path(folder) / ray.get_runtime_context().get_node_id()).touch()
    return load_toy(device)


@pytest.mark.slow
def test_two_nodes_and_an_image_that_kills(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), str(Path(__file__).parents[1] / "support")]))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    photos, nodes = tmp_path / "photos", tmp_path / "nodes"
    photos.mkdir()
    nodes.mkdir()
    for number in range(40):
        value = DEADLY if number == 13 else 20
        Image.new("RGB", (6, 4), (value,) * 3).save(photos / f"{number:02d}.png")
    memory = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **memory})
    try:
        cluster.add_node(num_cpus=2, **memory)
        ray.init(address=cluster.address, log_to_driver=False)
        task = Task(functools.partial(load_and_tell, str(nodes)), str(tmp_path / "out"))
        total = label_images(str(photos), task, Engine("ray", 3), settings={}, block_size=4)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert total == Count(40, 1)
    rows = pyarrow.parquet.read_table(tmp_path / "out" / INDEX).to_pylist()
    assert [row["path"] for row in rows] == sorted(map(str, photos.iterdir()))
    assert [row["path"] for row in rows if row["status"] == "failed"] == [str(photos / "13.png")]
    assert len(list(nodes.iterdir())) == 2
    assert not (tmp_path / "out" / "plan").exists()

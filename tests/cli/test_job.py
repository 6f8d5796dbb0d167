import argparse

from mta_clip.cli.job import run_job, write_mean_iou
from mta_clip.cli.options import add_process_options
from mta_clip.config import get_cfg


def test_one_process_runs_here():
    parser = argparse.ArgumentParser()
    add_process_options(parser)
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    calls = []
    run_job(lambda *values: calls.append(values), parser.parse_args([]), cfg, "more")
    assert calls == [(cfg, "more")]


def test_the_last_line(capsys):
    write_mean_iou({"sem_seg": {"mIoU": 48.379}})
    write_mean_iou({})
    assert capsys.readouterr().out == "mIoU 48.38\n"

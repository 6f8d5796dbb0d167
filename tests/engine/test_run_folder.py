import pytest

from mta_clip.config import get_cfg
from mta_clip.engine import run_folder
from mta_clip.engine.run_folder import claim_folder, clear_folder, evaluation_folder, last_checkpoint, newest_weights


@pytest.fixture
def run(tmp_path):
    """A folder with what a run leaves behind, and something else."""
    for name in ("config.yaml", "model_0000003.pth", "model_final.pth", "log.txt", "notes.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    (tmp_path / "eval").mkdir()
    return tmp_path


def test_an_earlier_run_is_only_continued_or_replaced_when_asked(run):
    with pytest.raises(FileExistsError, match=r"holds an earlier run \(config.yaml.*--resume .*--overwrite") as error:
        claim_folder(str(run))
    assert str(run) in str(error.value)
    claim_folder(str(run), resume=True)
    claim_folder(str(run), overwrite=True)
    assert (run / "model_final.pth").exists(), "claiming deletes nothing"


@pytest.mark.parametrize("variable", ["RANK", "TORCHELASTIC_RESTART_COUNT"])
def test_other_processes_and_restarts_do_not_ask(run, variable, monkeypatch):
    monkeypatch.setenv(variable, "1")
    claim_folder(str(run))


def test_a_log_alone_or_empty_files_are_no_run(tmp_path):
    (tmp_path / "log.txt").write_text("it failed")
    (tmp_path / "training_metrics.json").touch()
    claim_folder(str(tmp_path))


def test_weights_to_start_from_are_not_deleted(run):
    with pytest.raises(FileExistsError, match="--overwrite would delete"):
        claim_folder(str(run), overwrite=True, weights=str(run / "model_final.pth"))


def test_missing_weights_are_found_before_anything_is_deleted(run):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: no such checkpoint file"):
        claim_folder(str(run), overwrite=True, weights="gone.pth")


def test_clearing_leaves_other_files(run):
    clear_folder(str(run))
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"OUTPUT_DIR {tmp_path}/file/below cannot be written: "):
        claim_folder(str(tmp_path / "file" / "below"))
    with pytest.raises(OSError, match=f"--output {tmp_path}/file cannot be written: "):
        run_folder.check_writable(str(tmp_path / "file"), "--output")


def test_checkpoints_of_a_run(run, tmp_path):
    assert last_checkpoint(str(run)) == str(run / "model_0000003.pth")
    assert newest_weights(str(run)) == str(run / "model_0000003.pth")
    (run / "model_0000003.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"model_0000003\.pth does not exist, but .*last_checkpoint names it"):
        newest_weights(str(run))
    (run / "last_checkpoint").unlink()
    assert newest_weights(str(run)) == str(run / "model_final.pth")
    assert last_checkpoint(str(tmp_path / "eval")) is None
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        newest_weights(str(tmp_path / "eval"))


def test_evaluations_have_folders_below_the_run():
    cfg = get_cfg()
    cfg.merge_from_list(["OUTPUT_DIR", "out", "MODEL.WEIGHTS", "else/model_final.pth", "DATASETS.TEST", "('one',)"])
    assert evaluation_folder(cfg) == "out/eval/model_final/one"
    cfg.DATASETS.TEST = ("one", "two")  # `evaluate` adds the dataset
    assert evaluation_folder(cfg) == "out/eval/model_final"

"""The jobs that kill_anywhere.py kills, their data, and the child processes that they run in.

A child is forked from a process that has imported everything: the imports, seconds each time, are not what is tested.
"""

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "datasets")]

import prepare_ade20k  # noqa: E402
import prepare_cityscapes  # noqa: E402
import torch  # noqa: E402

import mta_clip  # noqa: E402
import mta_clip.api.load  # noqa: E402
import mta_clip.engine.trainer  # noqa: E402
import mta_clip.predictor  # noqa: E402
from mta_clip.cli import main as command_line  # noqa: E402
from mta_clip.data.prepare import run_script  # noqa: E402

SIDE = 32  # of an image, pixels
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}  # audit events

Fault = Callable[[], None]  # what a child does before its job


def write_photos(folder: Path, *, train: int = 6, val: int = 3) -> None:
    """Photos of two colours and their label maps of three classes, as `mta-clip train --data` reads them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            labels = (np.add.outer(np.arange(SIDE), rng.integers(0, 9, SIDE)) // 12 % 3).astype(np.uint8)
            image = 80 * labels[..., None] + rng.integers(0, 60, (SIDE, SIDE, 3))
            for kind, pixels in (("images", image.astype(np.uint8)), ("labels", labels)):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / split / kind / f"{index}.png")
    (folder / "names.txt").write_text("road\nmy cat\nsky\n")


def write_downloads(root: Path) -> None:
    """Label maps of ADE20K and Cityscapes, as their archives hold them."""
    for name, folder in (("ADE_{}", "ADEChallengeData2016/annotations"), ("aachen_{}_labelIds", "cityscapes/gtFine")):
        cities = ("",) if "ADE" in folder else ("aachen",)
        for split in ("training", "validation") if "ADE" in folder else ("train", "val"):
            for index in range(12):
                file = root / folder / split / Path(*cities) / f"{name.format(index)}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((64, 64), index, np.uint8)).save(file)


@dataclass(frozen=True)
class Job:
    """Work that leaves files in the working directory.

    Args:
        run: does it and returns the exit status; its argument says whether an earlier attempt was cut off.
        begin: copies into the empty working directory what the job changes in place.
    """

    name: str
    run: Callable[[bool], int]
    begin: Callable[[Path], None] = lambda folder: None


def tiny_options(photos: Path, iterations: int = 5) -> list[str]:
    """The options of `mta-clip train` for a model that trains in a second."""
    options = {
        "INPUT.MIN_SIZE_TRAIN": f"({SIDE},{SIDE})",
        "INPUT.MIN_SIZE_TEST": SIDE,
        "INPUT.CROP.SIZE": f"({SIDE},{SIDE})",
        "INPUT.SIZE_DIVISIBILITY": SIDE,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 8,
        "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
        "MODEL.MASK_FORMER.DEC_LAYERS": 2,
        "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",  # without text: faster
        "MODEL.PROMPT.NAME": "",
        "MODEL.DEVICE": "cpu",
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.CHECKPOINT_PERIOD": 2,  # and evaluations, so that kills fall between the two
        "SOLVER.LOG_PERIOD": 1,
        "SOLVER.EMA.ENABLED": True,
        "TEST.EVAL_PERIOD": 2,
        "DATALOADER.NUM_WORKERS": 1,
        "OUTPUT_DIR": "run",
    }
    return ["--data", str(photos), *(str(part) for pair in options.items() for part in pair)]


def jobs(world: Path) -> list[Job]:
    """All jobs; they read `world`: photos/ and, after the training, model/."""
    photos, model = world / "photos", world / "model" / "model_final.pth"

    def command(*arguments: str) -> Callable[[bool], int]:
        return lambda again: command_line.main(list(arguments))

    def train(again: bool) -> int:
        return command_line.main(["train", *tiny_options(photos), *(["--resume"] if again else [])])

    def save(again: bool) -> int:
        try:
            mta_clip.load(world / "model" / "model_final.pth", device="cpu").save("run")
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except OSError as error:
            print(error)
            return 1
        return 0

    def copy_downloads(folder: Path) -> None:
        write_downloads(folder / "run")

    def prepare(script: object) -> Callable[[bool], int]:
        return lambda again: run_script(script.__doc__, script.prepare, ["--root", "run", "--workers", "2"])

    predict = ("--weights", str(model), "--input", str(photos / "val"), "--output", "run", "--save-labels")
    return [
        Job("train", train),
        Job("evaluate", command("evaluate", "--weights", str(model), "OUTPUT_DIR", "run")),
        Job("predict", command("predict", *predict, "MODEL.DEVICE", "cpu")),
        Job("check", command("check", "--data", str(photos), "--output", "run", "--workers", "2")),
        Job("save", save),
        Job("prepare_ade20k", prepare(prepare_ade20k), copy_downloads),
        Job("prepare_cityscapes", prepare(prepare_cityscapes), copy_downloads),
    ]


def at_change(number: int, signum: int) -> Fault:
    """Makes a child kill itself when it is about to change the file system for the n-th time, from 1."""
    return lambda: _on_changes(lambda count: os.kill(os.getpid(), signum) if count == number else None)


def count_changes(file: Path) -> Fault:
    """Keeps the number of a child's changes of the file system in a file."""
    return lambda: _on_changes(lambda count: file.write_text(str(count)))


def _on_changes(act: Callable[[int], None]) -> None:
    owner, count, busy = os.getpid(), 0, False

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count, busy
        change = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES)
        if change and not busy and os.getpid() == owner:
            count, busy = count + 1, True
            act(count)
            busy = False

    sys.addaudithook(hook)


class Child:
    """A job in a forked process with a session of its own, in a working directory; its output goes to a file."""

    def __init__(self, job: Job, folder: Path, log: Path, *, again: bool = False, fault: Fault | None = None) -> None:
        target = multiprocessing.get_context("fork").Process(target=_run, args=(job, folder, log, again, fault))
        target.start()
        self.process = target

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait(self, seconds: float) -> int | None:
        """The exit status, negative for a signal; None if it does not end in time."""
        self.process.join(max(0.0, seconds))
        return self.process.exitcode

    def signal(self, signum: int, victim: str) -> bool:
        """Sends a signal to the "main" process, to the whole "group", or to one "worker"; whether there was one."""
        if victim == "worker":
            workers = [pid for pid in session_of(self.pid) if pid != self.pid]
            victims = workers[:1]
        else:
            victims = [self.pid] if victim == "main" else session_of(self.pid)
        for pid in victims:
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                victims = [other for other in victims if other != pid]
        return bool(victims)


def session_of(leader: int) -> list[int]:
    """Processes that live in the session of a child."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
        except OSError:  # it has ended
            continue
        if fields and int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def _run(job: Job, folder: Path, log: Path, again: bool, fault: Fault | None) -> None:
    os.setsid()
    with _output_to(log):
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(1)
        logging.getLogger().handlers.clear()
        if fault:
            fault()
        status = job.run(again)
    sys.exit(status)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    yield
    sys.stdout.flush()
    sys.stderr.flush()

"""The process of one stage of tools/gpu_campaign.py: writes every result into the stage's JSON file at once.

Stages that time something are in gpu_timing.py; here are those that run the project's own commands and parts.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gpu_plan import CORES, GPU_LOST, ON_A_GPU, REHEARSAL, TINY, Plan
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

Cells = dict[str, object]


class Record:
    """The JSON file of a stage, complete after every change.

    Args:
        file: may be that of an earlier attempt, whose rows are kept.
        keep_errors: also of rows that failed, which are then not tried again.
    """

    def __init__(self, file: Path, *, keep_errors: bool = False) -> None:
        self.file = file
        earlier = json.loads(file.read_text()) if file.is_file() else {}
        self.rows: list[Cells] = [row for row in earlier.get("rows", []) if keep_errors or "error" not in row]
        self.content = {"seconds": earlier.get("seconds", 0), "status": "running", "rows": self.rows, "notes": []}
        self._write()

    def measure(self, key: Cells, job: Callable[[], Cells | list[Cells]]) -> None:
        """Adds the row or rows that a job returns, or the error that it raised; does nothing if `key` has rows.

        Args:
            key: the first cells of these rows.

        Raises:
            SystemExit: this process cannot use the GPU any more.
        """
        if self.has(key):
            return
        print(key, flush=True)
        try:
            result = job()
            self.rows += [key | cells for cells in (result if isinstance(result, list) else [result])]
        except Exception as error:
            traceback.print_exc(file=sys.stdout)
            self.rows.append(key | {"error": f"{type(error).__name__}: {error}"[:300]})
        self._write()
        if torch.cuda.is_available():
            try:
                torch.cuda.synchronize()
            except RuntimeError as error:  # so does everything from now on
                raise SystemExit(GPU_LOST) from error

    def has(self, key: Cells) -> bool:
        """Whether there are rows with these cells."""
        return any(key.items() <= row.items() for row in self.rows)

    def note(self, text: str) -> None:
        """Adds a line below the table."""
        self.content["notes"].append(text)
        self._write()

    def skip(self, reason: str) -> None:
        """Notes why the stage cannot run here."""
        self.content["skipped"] = True
        self.note(reason)

    def _write(self) -> None:
        part = self.file.with_name(self.file.name + ".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n")
        part.replace(self.file)


def smoke(record: Record, plan: Plan, args: argparse.Namespace) -> None:
    """Each model takes a training step and segments an image."""
    for line in environment(plan.device):
        record.note(line)
    for name in plan.models:
        record.measure({"config": name}, lambda name=name: one_step(name, plan))


def environment(device: str) -> list[str]:
    """What the numbers depend on."""
    import detectron2
    import open_clip

    lines = [
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, Python "
        f"{platform.python_version()}, detectron2 {detectron2.__version__}, open_clip {open_clip.__version__}",
        f"{CORES} CPU cores, {platform.machine()}",
    ]
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        query = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
        driver = output_of(query)
        lines.insert(0, f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB; driver, power limit, clock: {driver}")
    return [*lines, f"commit {output_of(['git', 'describe', '--always', '--dirty', '--exclude=*'])}"]


def output_of(command: list[str]) -> str:
    """What a command prints; "unknown" if it fails or is not installed."""
    if not shutil.which(command[0]):
        return "unknown"
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def one_step(name: str, plan: Plan) -> Cells:
    """Builds a shipped config's model without weights, takes a training step as configured, and segments an image."""
    from mta_clip.config_loader import load_config  # isort: skip  first, as it makes detectron2 importable
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from mta_clip.data import with_classes
    from mta_clip.engine.optimizer import build_optimizer
    from mta_clip.engine.precision import Precision

    start = time.monotonic()
    no_weights = [f"MODEL.{key}" for key in ("WEIGHTS", "CLIP.PRETRAINED", "CLIP.IMAGE_PRETRAINED")]
    overrides = [part for key in no_weights for part in (key, "")]
    cfg = with_classes(load_config(str(ROOT / "configs" / f"{name}.yaml"), ["MODEL.DEVICE", plan.device, *overrides]))
    side = plan.side or cfg.INPUT.CROP.SIZE[0]
    samples = [
        {
            "image": torch.randint(0, 256, (3, side, side), dtype=torch.uint8),
            "sem_seg": torch.randint(0, 4, (side, side)),
        }
        for _ in range(2)
    ]
    model, precision = build_model(cfg).train(), Precision(cfg)
    optimizer = build_optimizer(cfg, model)
    with EventStorage(), precision.autocast():
        losses = model(samples)
    loss = sum(losses.values())
    precision.backward(loss)
    precision.unscale(optimizer)
    precision.step(optimizer)
    if not loss.isfinite():
        raise ArithmeticError(f"losses are not finite: { ({key: value.item() for key, value in losses.items()}) }")
    with torch.no_grad():
        scores = model.eval()(samples[:1])[0]["sem_seg"]
    if not scores.isfinite().all():
        raise ArithmeticError("scores are not finite")
    dtype = str(precision.dtype).removeprefix("torch.")
    return {"dtype": dtype, "side": side, "loss": loss.item(), "seconds": time.monotonic() - start}


def tests(record: Record, plan: Plan, args: argparse.Namespace) -> None:
    """The GPU's own tests, and those of the golden numbers on it."""
    marked = re.compile(r"mark\.(golden|gpu)\b")
    files = plan.tests or [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if marked.search(path.read_text())
    ]
    with tempfile.TemporaryDirectory() as folder:
        parity = Path(folder, "parity.jsonl")
        record.measure({"tests": "gpu or golden"}, lambda: run_pytest(files, plan.device, parity, args.seconds - 5))
        entries = [json.loads(line) for line in parity.read_text().splitlines()] if parity.is_file() else []
    for label in sorted({entry["label"] for entry in entries}):
        worst = max((e for e in entries if e["label"] == label), key=lambda e: e["largest_difference"])
        limits = {name: worst[name] for name in ("largest_difference", "atol", "rtol")}
        record.measure({"tests": f"golden: {label}"}, lambda limits=limits: limits)


def run_pytest(files: list[str], device: str, parity: Path, seconds: float) -> Cells:
    """Counts of outcomes, also if pytest does not finish in time, and the names of tests that failed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "-m", "gpu or golden"]
    command += ["-vv"]  # a line for each test, although pyproject.toml has -q
    variables = {"MTA_CLIP_GOLDEN_DEVICE": device, "MTA_CLIP_PARITY_REPORT": str(parity), "NVIDIA_TF32_OVERRIDE": "0"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [*command, *files], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **variables}
        )
        try:
            status = process.wait(timeout=max(seconds, 1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = -1
        output.seek(0)
        text = output.read()
    print(text)
    outcomes = dict(re.findall(r"^(tests/\S+.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b", text, re.MULTILINE))
    if not outcomes:
        raise RuntimeError(f"pytest ran no test (exit status {status}): {text[-200:]}")
    names = {"passed": "PASSED", "failed": "FAILED", "errors": "ERROR", "skipped": "SKIPPED"}
    counts: Cells = {name: list(outcomes.values()).count(outcome) for name, outcome in names.items()}
    broken = [test for test, outcome in outcomes.items() if outcome in ("FAILED", "ERROR")]
    finished = {"finished": "no"} if status == -1 else {}
    return counts | finished | {"broken": ", ".join(broken)}


def loading(record: Record, plan: Plan, args: argparse.Namespace) -> None:
    """Training images per second by number of loader processes, from photos as large as ADE20K's."""
    from mta_clip.config_loader import load_config
    from mta_clip.data import build_train_loader, register_folders, with_classes

    with tempfile.TemporaryDirectory() as folder:
        images, labels = write_photos(Path(folder), ("images", "labels"), plan, suffix=".jpg")
        names = [f"class {index}" for index in range(plan.classes)]
        entry = {"name": "campaign_photos", "image_dir": str(images), "label_dir": str(labels), "classes": names}
        cfg = load_config(str(ROOT / "configs" / "ade20k" / "mta_clip_rn50.yaml"), list(TINY if plan.side else ()))
        cfg.DATASETS.FOLDERS, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [entry], ("campaign_photos",), ()
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = plan.classes
        register_folders(cfg)

        def throughput(workers: int) -> Cells:
            cfg.DATALOADER.NUM_WORKERS = workers
            batches = iter(build_train_loader(with_classes(cfg), seed=0))
            for _ in range(2 * max(workers, 1)):  # each worker has filled its queue once
                next(batches)
            start, count, rounds = time.monotonic(), 0, plan.rounds * max(workers, 1)
            while count < rounds and time.monotonic() - start < args.seconds / (len(plan.workers) + 1):
                next(batches)
                count += 1
            return {"images/s": count * cfg.SOLVER.IMS_PER_BATCH / (time.monotonic() - start)}

        for workers in plan.workers:
            record.measure({"processes": workers}, lambda workers=workers: throughput(workers))
    record.note(f"Crops of {cfg.INPUT.CROP.SIZE[0]} pixels from synthetic photos of {plan.photo_size} pixels")
    needed = [row["images/s"] for row in rows_of(args.json.with_name("training.json")) if "images/s" in row]
    if needed:
        record.note(f"The fastest training step measured here takes {max(needed):.0f} images/s")


def rows_of(file: Path) -> list[Cells]:
    """The rows of another stage; none if it has not begun."""
    return json.loads(file.read_text()).get("rows", []) if file.is_file() else []


def write_photos(root: Path, folders: tuple[str, str], plan: Plan, *, suffix: str) -> tuple[Path, Path]:
    """Writes clouds of colour and label maps of blocks; returns the folders of the two."""
    images, labels = (root / name for name in folders)
    random = np.random.default_rng(0)
    for folder in (images, labels):
        folder.mkdir(parents=True)
    for index in range(plan.photos):
        clouds = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        clouds.resize(plan.photo_size, Image.Resampling.BICUBIC).save(images / f"{index:04}{suffix}")
        blocks = Image.fromarray(random.integers(0, plan.classes, (6, 8), dtype=np.uint8))
        blocks.resize(plan.photo_size, Image.Resampling.NEAREST).save(labels / f"{index:04}.png")
    return images, labels


def camvid(record: Record, plan: Plan, args: argparse.Namespace) -> None:
    """Trains for the time there is, with a schedule of that length, and evaluates."""
    from mta_clip.data.datasets.catalog import data_root

    deadline = time.monotonic() + args.seconds
    folder = args.json.with_suffix("").absolute()  # has room for checkpoints, as /tmp may not; the campaign removes it
    if args.rehearse:
        os.environ["DETECTRON2_DATASETS"] = str(folder)
        for split in ("train", "val"):
            write_photos(folder / "camvid", (split, f"{split}annot"), plan, suffix=".png")
    if not (data_root() / "camvid" / "train").is_dir():
        record.skip(f"skipped: no camvid in {data_root().absolute()}; set DETECTRON2_DATASETS (datasets/README.md)")
        return
    record.measure({"config": plan.camvid}, lambda: train_camvid(folder, plan, args.opts, deadline))
    record.note("MODEL.CLIP.PRETRAINED is empty unless given after --: from scratch")


def train_camvid(folder: Path, plan: Plan, opts: list[str], deadline: float) -> Cells:
    """A short run tells how long an iteration takes; the second one takes as many as fit."""
    options = ["MODEL.CLIP.PRETRAINED", "", *plan.camvid_options, *opts]
    probe = plan.probe_iterations
    start = time.monotonic()
    train(folder / "probe", plan.camvid, [*options, "DATASETS.TEST", "()"], probe)
    rows = [json.loads(line) for line in (folder / "probe" / "training_metrics.json").read_text().splitlines()]
    seconds = statistics.median(row["time"] for row in rows if "time" in row)
    overhead = time.monotonic() - start - probe * seconds
    # starting again, evaluating (assumed to take as long as starting), and a reserve
    iterations = int(0.9 * (deadline - time.monotonic() - 2 * overhead) / seconds)
    if iterations < min(probe, plan.most_iterations):
        raise TimeoutError(f"an iteration takes {seconds:.2f} s: no time is left for {probe} of them")
    iterations = min(iterations, plan.most_iterations)
    train(folder / "run", plan.camvid, options, iterations)
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    return {"iterations": iterations, "s/iteration": seconds, "mIoU": metrics["sem_seg/mIoU"]}


def train(output: Path, config: str, options: list[str], iterations: int) -> None:
    schedule = {"MAX_ITER": iterations, "WARMUP_ITERS": iterations // 10}
    overrides = [part for key, value in schedule.items() for part in (f"SOLVER.{key}", str(value))]
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(ROOT / "configs" / f"{config}.yaml")]
    subprocess.run([*command, *options, *overrides, "OUTPUT_DIR", str(output)], check=True)


def stages() -> dict[str, Callable[[Record, Plan, argparse.Namespace], None]]:
    import gpu_timing

    timing = {name: getattr(gpu_timing, name) for name in ("inference", "sampling", "training", "profile")}
    return {"smoke": smoke, "tests": tests, "loading": loading, "camvid": camvid, **timing}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=sorted(stages()))
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--until", type=float, required=True, help="Unix time at which the process will be killed")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--keep-errors", action="store_true", help="rows that failed are not tried again")
    parser.add_argument("--official", type=Path)
    # Behind other options, argparse does not find positional arguments.
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs; the last option")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    args.seconds = args.until - time.time()
    if not args.rehearse and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: --rehearse runs the stages on the CPU")
    record = Record(args.json, keep_errors=args.keep_errors)
    stages()[args.stage](record, REHEARSAL if args.rehearse else ON_A_GPU, args)


if __name__ == "__main__":
    main()

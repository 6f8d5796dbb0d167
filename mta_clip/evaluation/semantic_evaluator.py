"""Evaluates label maps against ground truth, image by image, on any number of processes.

Shapes: C classes, H and W image size.
"""

import functools
import logging
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy.typing import NDArray
from torch import Tensor

from ..data import LabelReader, unseen_classes
from ..data.label_maps import width_x_height
from ..visualization import class_colors
from .confusion_picture import draw_confusion
from .counts import SegmentationCounts
from .metrics import class_metrics, summary_metrics
from .predictions import FORMATS, LabelMapWriter, RunLengthWriter
from .report import format_table, write_class_table, write_metrics

logger = logging.getLogger(__name__)


class SemanticEvaluator(DatasetEvaluator):
    """IoU, accuracy and boundary IoU of semantic segmentation, with reports.

    Each prediction is reduced to pixel counts at once, so memory does not grow with the dataset, and one process gives
    the same numbers as several. The main process writes to `output_dir`:

    - metrics.json: all results in percent, as one object with keys such as "sem_seg/mIoU";
    - per_class.csv and confusion_matrix.png;
    - predictions/*.png or predictions.json, as `save_predictions` says.

    If a report cannot be written (a full disk, say), an error is logged and the results are still returned.

    Args:
        class_names: C names.
        label_reader: reads the ground truth and checks it.
        label_files: {path of an image: path of its ground-truth label map}.
        output_dir: folder for the reports; None: no reports.
        title: name of the dataset in logs and errors.
        unseen_classes: names held out of training, or that it did not have; if any, mIoU of seen and unseen classes and
            hIoU are reported too.
        boundary_dilation: width of the boundary band as a share of the image diagonal; None: no boundary IoU.
        save_predictions: none | png (label maps) | rle (COCO results, see `RunLengthWriter`).
        colors: RGB 0..255 per class for label PNGs; None: `distinct_colors`.
        dataset_ids: {class index: category id} for "rle"; None: the index itself.

    Raises:
        ValueError: an unknown unseen class, an unknown format for predictions, or `colors` that are not one RGB triple
            per class.
    """

    @configurable
    def __init__(
        self,
        *,
        class_names: Sequence[str],
        label_reader: LabelReader,
        label_files: Mapping[str, str],
        output_dir: str | Path | None = None,
        title: str = "dataset",
        unseen_classes: Sequence[str] = (),
        boundary_dilation: float | None = None,
        save_predictions: str = "none",
        colors: Sequence[Sequence[int]] | None = None,
        dataset_ids: Mapping[int, int] | None = None,
    ):
        unknown = sorted(set(unseen_classes) - set(class_names))
        if unknown:
            raise ValueError(f"unseen classes {unknown} are no classes of {title}; it has {list(class_names)}")
        if save_predictions not in FORMATS:
            raise ValueError(f"predictions can be saved as {' | '.join(FORMATS)}, not {save_predictions!r}")
        self.class_names = tuple(class_names)
        self.label_reader = label_reader
        self.label_files = label_files
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.title = title
        self.unseen = tuple(self.class_names.index(name) for name in unseen_classes)
        self.boundary_dilation = boundary_dilation
        self.save_predictions = save_predictions
        self.colors = class_colors(len(class_names), colors)
        self.dataset_ids = dataset_ids
        self.reset()

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str, output_dir: str | Path | None = None) -> dict[str, Any]:
        """The arguments above, from a config and the metadata of a registered dataset."""
        metadata, records = MetadataCatalog.get(dataset_name), DatasetCatalog.get(dataset_name)
        to_index = metadata.get("stuff_dataset_id_to_contiguous_id")
        options = cfg.TEST.SEM_SEG
        return {
            "class_names": metadata.stuff_classes,
            "label_reader": LabelReader.from_metadata(metadata),
            "label_files": {record["file_name"]: record["sem_seg_file_name"] for record in records},
            "output_dir": output_dir,
            "title": dataset_name,
            "unseen_classes": unseen_classes(cfg, metadata.stuff_classes),
            "boundary_dilation": options.BOUNDARY_DILATION if options.BOUNDARY_IOU else None,
            "save_predictions": options.SAVE_PREDICTIONS,
            "colors": metadata.get("stuff_colors"),
            "dataset_ids": {index: stored for stored, index in to_index.items()} if to_index else None,
        }

    def reset(self) -> None:
        """Forgets all counts."""
        self._counts = SegmentationCounts.zeros(len(self.class_names))
        self._writer: LabelMapWriter | RunLengthWriter | None = None
        if self.output_dir is None or self.save_predictions == "none":
            return
        if self.save_predictions == "png":
            folder = self.output_dir / "predictions"
            self._writer = LabelMapWriter(folder=folder, images=self.label_files, colors=self.colors)
        else:
            self._writer = RunLengthWriter(
                path=self.output_dir / "predictions.json",
                images=self.label_files,
                class_names=self.class_names,
                dataset_ids=self.dataset_ids,
            )

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Counts a batch.

        Args:
            inputs: dataset dicts; `file_name` is a key of `label_files`.
            outputs: `{"sem_seg": (C, H, W)}` float scores or `{"labels": (H, W)}` class indices, at the size of the
                label map.

        Raises:
            FileNotFoundError: a label map is missing.
            ValueError: the image is unknown, a label map is unreadable or has a value out of range, or a prediction has
                another size, another number of classes, a label out of range or NaN scores. The message names the file.
        """
        for record, output in zip(inputs, outputs, strict=True):
            image = record["file_name"]
            if image not in self.label_files:
                raise ValueError(f"{image}: not one of the {len(self.label_files)} images of {self.title}")
            prediction = self._predicted_labels(output, image)
            label_file = self.label_files[image]
            truth = self.label_reader.read(label_file)
            if prediction.shape != truth.shape:
                raise ValueError(
                    f"{image}: the prediction is {width_x_height(prediction.shape)}, its label map {label_file} is "
                    f"{width_x_height(truth.shape)}; models must predict at the image file's size (`height`, `width`)"
                )
            ignored = self.label_reader.ignore_label
            self._counts.update(truth, prediction, ignore_label=ignored, boundary_dilation=self.boundary_dilation)
            if self._writer and not self._attempt("save predictions", self._writer.write, image, prediction):
                self._writer = None  # the rest would fail the same way; metrics go on

    def _predicted_labels(self, output: Mapping[str, Tensor], image: str) -> NDArray[np.int64]:
        if "labels" in output:
            labels, num_classes = output["labels"].cpu().numpy(), len(self.class_names)
            if labels.min() < 0 or labels.max() >= num_classes:
                raise ValueError(f"{image}: predicted labels must be in 0..{num_classes - 1}, got {np.unique(labels)}")
            return labels
        scores = output["sem_seg"]
        if scores.shape[0] != len(self.class_names):
            raise ValueError(
                f"{image}: the model scores {scores.shape[0]} classes, but {self.title} has {len(self.class_names)}; "
                "set MODEL.SEM_SEG_HEAD.NUM_CLASSES to the dataset's"
            )
        best, indices = scores.max(dim=0)  # NaN wins every maximum, so it is enough to check `best`
        labels = indices.masked_fill(best.isnan(), -1).cpu().numpy()  # one transfer, as each waits for the device
        if wrong := np.count_nonzero(labels < 0):
            raise ValueError(f"{image}: the model's scores are NaN at {wrong} pixels")
        return labels

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Joins the counts of all processes, logs the results and writes the reports.

        Returns:
            In the main process {"sem_seg": results} in percent: mIoU, fwIoU, mACC, pACC; boundary_mIoU and the
            zero-shot means if asked for; per class IoU-<name>, ACC-<name> and, if asked for, BoundaryIoU-<name>. NaN
            for classes that are absent; see `metrics`. In the other processes None.

        Raises:
            ValueError: no image was processed.
        """
        parts = comm.gather(self._counts)
        if self._writer:
            self._attempt("save predictions", self._writer.finish)
        if not comm.is_main_process():
            return None
        counts = functools.reduce(operator.add, parts)
        if not counts.images:
            raise ValueError(f"no image of {self.title} was evaluated; is its loader empty?")
        per_class = class_metrics(counts)
        summary = {name: 100 * value for name, value in summary_metrics(counts, self.unseen).items()}
        results = dict(summary)
        for index, name in enumerate(self.class_names):
            results[f"IoU-{name}"] = 100 * float(per_class.iou[index])
            results[f"ACC-{name}"] = 100 * float(per_class.accuracy[index])
            if self.boundary_dilation is not None:
                results[f"BoundaryIoU-{name}"] = 100 * float(per_class.boundary_iou[index])
        table = format_table(summary, per_class, self.class_names, self.unseen)
        logger.info("Evaluation of %s, %d images, percent:\n%s", self.title, counts.images, table)
        if self.output_dir is not None:
            flat = {f"sem_seg/{name}": value for name, value in results.items()}
            self._attempt("write metrics.json", write_metrics, self.output_dir / "metrics.json", flat)
            csv_path, picture_path = self.output_dir / "per_class.csv", self.output_dir / "confusion_matrix.png"
            self._attempt("write per_class.csv", write_class_table, csv_path, per_class, self.class_names, self.unseen)
            self._attempt("draw the confusion matrix", draw_confusion, picture_path, counts.confusion, self.class_names)
        return OrderedDict(sem_seg=results)

    def _attempt(self, what: str, action: Callable[..., None], *arguments: Any) -> bool:
        """Runs a file operation; a failure is logged and must not discard the metrics. Returns whether it succeeded."""
        try:
            action(*arguments)
        except OSError as error:
            logger.error("%s: could not %s: %s. The metrics are not affected.", self.title, what, error)
            return False
        return True

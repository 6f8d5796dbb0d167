"""What the page does for its visitors, without the page: segment an image, explain a region, draw an overlay."""

import dataclasses
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import cast

from ..analysis.mask_queries import MaskQueries
from ..api.result import Segmentation
from ..data.image_files import check_pixels, open_image
from ..data.synonyms import split_names
from ..modeling.inference.progress import Report
from .downloads import write_downloads, write_overlay
from .explanation import explain_region, region_at
from .jobs import Jobs
from .models import Models


@dataclasses.dataclass
class Answer:
    """What a visitor sees: a result, without scores, and what is needed to explain it."""

    result: Segmentation
    model: str
    names: list[str] | None  # that were asked for
    summary: str
    folder: tempfile.TemporaryDirectory  # of its downloads; deleted with the answer
    queries: MaskQueries | None = None  # once a region was clicked


class Answers:
    """Serves the visitors of a page; all of them share the models, which take one image at a time.

    Args:
        models: that visitors can choose from.
        max_pixels: of an image; larger ones are refused.
    """

    def __init__(self, models: Models, *, max_pixels: int):
        self.models = models
        self.max_pixels = max_pixels
        self.jobs = Jobs()

    def segment(
        self, path: str | None, model: str, names: str, other: str, threshold: float, *, session: str, report: Report
    ) -> Answer:
        """Segments an image.

        Args:
            path: of the image file; None: nothing was chosen.
            model: one of the names of the models.
            names: class names, separated by commas or line breaks; empty: those of the training.
            other: see `Segmenter.__call__`; an empty one rejects no pixel.
            threshold: see `Segmenter.__call__`.
            session: of the visitor.
            report: see `Jobs.running`.

        Raises:
            ValueError, OSError: the image is missing, broken or too large, or the model cannot look for the names.
            Cancelled: see `Jobs.running`.
        """
        if path is None:
            raise ValueError("Choose an image first.")
        with open_image(path) as image:
            check_pixels(image, self.max_pixels)
        wanted = split_names(names)
        other_name = other.strip() or None
        segmenter = self.models[model]
        start = time.perf_counter()
        with self.jobs.running(session, report):
            answered = segmenter(
                path,
                wanted,
                other=other_name,
                threshold=threshold if other_name else None,
                scores=False,
                progress=False,
            )
        seconds = time.perf_counter() - start
        result = dataclasses.replace(cast(Segmentation, answered), path=Path(path).name)
        return Answer(result, model, wanted, self._summary(result, model, seconds), tempfile.TemporaryDirectory())

    def downloads(self, answer: Answer) -> tuple[Path, Path, Path]:
        """Files of an answer; see `write_downloads`."""
        return write_downloads(answer.result, Path(answer.folder.name))

    def overlay(self, answer: Answer, *, alpha: float, hidden: Collection[int]) -> Path:
        """The overlay as the visitor has set it; see `write_overlay`."""
        return write_overlay(answer.result, Path(answer.folder.name), alpha=alpha, hidden=hidden)

    def explain(self, answer: Answer, x: float, y: float) -> str:
        """HTML about the region at a point, given as shares 0..1 of width and height; see `explain_region`."""
        result, segmenter = answer.result, self.models[answer.model]
        region = region_at(result.labels, x, y)
        label = int(result.labels[region][0])
        rejected = result.class_names[label] == result.other
        if rejected or not segmenter.has_queries:
            return explain_region(result, region, None)
        if answer.queries is None:
            answer.queries = segmenter.queries(result.image, answer.names)
        return explain_region(result, region, answer.queries.votes(region, label), answer.queries.num_contexts)

    def _summary(self, result: Segmentation, model: str, seconds: float) -> str:
        height, width = result.labels.shape
        found = len(result.masks())
        line = f"{width} x {height} pixels, {found} class{'es' if found > 1 else ''}, {seconds:.2f} s with {model}."
        guessed = [name for name in result.unseen_classes if name != result.other]
        if guessed and not self.models[model].knows_language:
            line += f" This model never learned language: what it finds as {', '.join(guessed)} is a guess."
        return line

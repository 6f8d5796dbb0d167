"""A trained model as a function: images in, results out."""

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path

from detectron2.config import CfgNode
from tqdm.auto import tqdm

from ..analysis.mask_queries import MaskQueries, mask_queries
from ..modeling import MTACLIP, SegmentationModel
from ..predictor import SegmentationPredictor
from .hub import upload_folder
from .images import ImageInput, batches_of_one_size, each_image, is_one_image, to_rgb
from .result import DEFAULT_THRESHOLD, Segmentation
from .saved_model import save_model


class Segmenter:
    """A trained model; `mta_clip.load` makes one from files.

    A call depends on its arguments alone, not on earlier ones. Threads may share a segmenter; they take turns.

    Args:
        model: a `SegmentationModel` with trained weights.
        config: of the model; it names the classes (MODEL.PROMPT.CLASS_NAMES).
        metrics: what an evaluation of these weights gave, e.g. {"sem_seg/mIoU": 48.4}, in percent.

    Attributes:
        class_names: of the training, in label order.
        config, metrics: see above.

    Raises:
        ValueError: the config names no classes.
    """

    def __init__(
        self, model: SegmentationModel, config: CfgNode, *, metrics: Mapping[str, float] | None = None
    ) -> None:
        if not config.MODEL.PROMPT.CLASS_NAMES:
            raise ValueError("MODEL.PROMPT.CLASS_NAMES is empty: a segmenter needs the names of its model's classes")
        self.config = config
        self.metrics = dict(metrics or {})
        self.class_names = tuple(config.MODEL.PROMPT.CLASS_NAMES)
        self._model = model
        self._predictor = SegmentationPredictor(**SegmentationPredictor.arguments(model, config))
        self._vocabulary: tuple[str, ...] | None = None  # that the predictor is set to
        self._lock = threading.Lock()

    def __call__(
        self,
        images: ImageInput | Iterable[ImageInput],
        labels: Sequence[str] | None = None,
        *,
        other: str | None = None,
        threshold: float | None = None,
        scores: bool | None = None,
        batch_size: int = 4,
        progress: bool = True,
    ) -> Segmentation | list[Segmentation]:
        """Segments an image or several.

        Args:
            images: an image (path, PIL image, array, tensor; see `to_rgb`), or a list or folder of images, or a batch
                (B, H, W, 3) as an array or (B, 3, H, W) as a tensor.
            labels: names to look for instead of the classes of the training.
            other: class of the pixels at which no name reaches the threshold; see `Segmentation.reject`.
            threshold: confidence in 0..1 that a name needs if there is an `other`; None: 0.3.
            scores: whether results keep the scores that `probabilities` are computed from: 4 bytes per class and pixel.
                Without, labels and confidence are computed a few rows at a time, and memory stays bounded on large
                images. None: only for a single image.
            batch_size: most images in a forward pass; images of different sizes are never in one batch.
            progress: whether several images show a progress bar (only on a terminal or in a notebook).

        Returns:
            The result of an image, or a list of results.

        Raises:
            FileNotFoundError, ValueError: an image cannot be read.
            ValueError: the model has no text, a name is empty, too long or given twice, or a threshold without `other`.
        """
        one = is_one_image(images)
        results = list(
            self.stream(
                images,
                labels,
                other=other,
                threshold=threshold,
                scores=one if scores is None else scores,
                batch_size=batch_size,
                progress=progress and not one,
            )
        )
        return results[0] if one else results

    def stream(
        self,
        images: ImageInput | Iterable[ImageInput],
        labels: Sequence[str] | None = None,
        *,
        other: str | None = None,
        threshold: float | None = None,
        scores: bool = False,
        batch_size: int = 4,
        progress: bool = False,
    ) -> Iterator[Segmentation]:
        """Yields results one after the other, so that a video or a large folder need not fit into memory.

        For arguments and errors see `__call__`; `images` may also be a generator.
        """
        names = _checked_names(labels)
        if threshold is not None and other is None:
            raise ValueError(f"threshold={threshold} needs other=..., the name of the class below it")
        return self._stream(
            each_image(images),
            names,
            other,
            DEFAULT_THRESHOLD if threshold is None else threshold,
            scores,
            batch_size,
            progress,
        )

    @property
    def has_queries(self) -> bool:
        """Whether the model has mask queries (MTA-CLIP, Mask2Former), which `queries` returns."""
        return isinstance(self._model, MTACLIP)

    @property
    def takes_names(self) -> bool:
        """Whether the model can look for other names (`labels`) than those of its training."""
        return self._model.takes_names

    @property
    def knows_language(self) -> bool:
        """Whether its text tower was pretrained on language; if not, names that it was not trained on are guesses."""
        return self._predictor.knows_language

    def queries(self, image: ImageInput, labels: Sequence[str] | None = None) -> MaskQueries:
        """The masks behind the labels of an image, with the class of each by the linear classifier and by text.

        The image is seen as a whole, also by a model that otherwise looks through windows or averages augmented images.

        Args:
            image: see `__call__`.
            labels: see `__call__`.

        Raises:
            ValueError: the model has no mask queries (see `has_queries`); or see `__call__`.
        """
        names, (rgb, _) = _checked_names(labels), to_rgb(image)
        with self._lock:
            self._use(names)
            resized = self._predictor.resized(rgb)
            in_use = self._predictor.class_names
            return mask_queries(self._model, resized, class_names=in_use, trained_names=self.class_names)

    def save(self, folder: str | Path) -> Path:
        """Saves config, weights, classes and a model card into a folder that `mta_clip.load` reads.

        Returns:
            The folder.

        Raises:
            FileExistsError: the folder holds something else than a saved model.
            OSError: a file cannot be written.
        """
        return save_model(folder, self._model, self.config, metrics=self.metrics)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        commit_message: str = "Upload a mta-clip model",
    ) -> str:
        """Uploads what `save` writes to a model repository on the Hugging Face Hub, which is made if it is missing.

        Args:
            repo_id: "user/name".
            private: visibility of a new repository.
            token: of Hugging Face; None: that of `hf auth login` or $HF_TOKEN.

        Returns:
            The address of the repository.

        Raises:
            HfHubHTTPError: the Hub refuses, e.g. for want of a token.
        """
        return upload_folder(self.save, repo_id, private=private, token=token, commit_message=commit_message)

    def __repr__(self) -> str:
        cfg = self.config.MODEL
        return f"<Segmenter: {cfg.META_ARCHITECTURE} with {len(self.class_names)} classes on {cfg.DEVICE}>"

    def _stream(
        self,
        images: Iterable[ImageInput],
        names: tuple[str, ...] | None,
        other: str | None,
        threshold: float,
        scores: bool,
        batch_size: int,
        progress: bool,
    ) -> Iterator[Segmentation]:
        total = len(images) if isinstance(images, Sized) else None
        with tqdm(total=total, unit="image", disable=None if progress else True) as bar:
            for batch in batches_of_one_size(images, batch_size):
                results = self._predict([image for image, _ in batch], names, scores)
                for (_, path), result in zip(batch, results, strict=True):
                    result = dataclasses.replace(result, path=path)
                    yield result if other is None else result.reject(other, threshold=threshold)
                    bar.update()

    def _predict(self, images: list, names: tuple[str, ...] | None, scores: bool) -> list[Segmentation]:
        with self._lock:
            self._use(names)
            return self._predictor.predict_batch(images, label_maps_only=not scores)

    def _use(self, names: tuple[str, ...] | None) -> None:
        """Sets the names, which are a state of the model."""
        if names != self._vocabulary:
            self._predictor.set_vocabulary(names)
            self._vocabulary = names


def _checked_names(labels: Sequence[str] | None) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if isinstance(labels, str):
        raise ValueError(f"labels is a list of names, got the text {labels!r}; a single name is labels=[{labels!r}]")
    names = tuple(name.strip() for name in labels)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"these names occur more than once: {', '.join(repeated)}")
    return names

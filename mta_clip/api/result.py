"""What a model finds in an image: labels, probabilities, masks, pictures.

Shapes: C classes, H and W image size, N classes that are present, P points of a polygon.
"""

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..extras import import_extra
from ..visualization import draw_overlay, legend_entries, prediction_panel

if TYPE_CHECKING:
    import supervision

DEFAULT_THRESHOLD = 0.3  # of `reject`, where users name a class but no threshold
OTHER_GREYS = (0, 64, 128, 192)  # of pixels that get none of the names; the farthest from all colours is taken
NEGLIGIBLE = float(np.finfo(np.float32).tiny)  # sums of scores up to this are not divided by
LISTED = 5  # classes in the text form of a result


@dataclass(frozen=True, eq=False, kw_only=True)
class Segmentation:
    """A segmented image, with everything at the size of the image.

    With `scores` it takes 4 C bytes per pixel, and as much again once `probabilities` are read; without, about 20.
    """

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    labels: NDArray[np.int64]  # (H, W), indices of class_names
    class_names: tuple[str, ...]  # C
    colors: NDArray[np.uint8]  # (C, 3) RGB
    # (H, W) in [0, 1], the score of the label: how sure the model is that this class is here at all. Probabilities
    # instead compare the names with each other: of a single name they are 1 everywhere
    confidence: NDArray[np.float32]
    scores: NDArray[np.float32] | None = None  # (C, H, W), larger is more likely; None if they were not kept
    trusty: NDArray[np.float32] | None = None  # (H, W) in [0, 1], probability of a seen class; TagCLIP only
    unseen_classes: tuple[str, ...] = ()  # names that the model was not trained on
    other: str | None = None  # name of rejected pixels, if it is none of the model's
    path: str | None = None  # of the image, if it was read from a file

    @functools.cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """(C, H, W) in [0, 1], each class's share of the positive scores of a pixel: they sum to 1 over classes.

        Scores are, for MTA-CLIP and Mask2Former, sums over mask queries of class probability times mask probability
        (0 and above); for TagCLIP, mask probabilities weighted by the trusty map, lowered by MODEL.TAGCLIP.GAMMA for
        seen classes, so that they can be negative. Where no class has a positive score, all C are 1 / C.

        Raises:
            ValueError: the scores were not kept.
        """
        if self.scores is None:
            raise ValueError("probabilities need the scores, which were not kept: call the model with scores=True")
        shares = self.scores.clip(min=0)
        total = shares.sum(axis=0)
        claimed = total > NEGLIGIBLE
        np.divide(shares, total, out=shares, where=claimed)
        shares[:, ~claimed] = 1 / len(shares)
        return shares

    def reject(self, other: str = "other", *, threshold: float) -> "Segmentation":
        """The same result, but pixels whose confidence is below `threshold` get the class `other`.

        Labels and probabilities are those of a model in which `other` has the score `threshold` everywhere.

        Args:
            other: a new name, which becomes the last class, or one of `class_names`.
            threshold: 0..1.

        Raises:
            ValueError: `threshold` is out of range.
        """
        check_threshold(threshold)
        names, colors, scores = self.class_names, self.colors, self.scores
        if other not in names:
            names, colors = (*names, other), np.vstack([colors, _grey_apart_from(colors)])
            if scores is not None:
                scores = np.concatenate([scores, np.full_like(scores[:1], threshold)])
        elif scores is not None:
            scores = scores.copy()
            scores[names.index(other)] = scores[names.index(other)].clip(min=threshold)
        labels = np.where(self.confidence < threshold, names.index(other), self.labels)
        new = other if other not in self.class_names else self.other
        return replace(self, labels=labels, class_names=names, colors=colors, scores=scores, other=new)

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Masks (H, W) of the classes that are present, in the order of `class_names`."""
        return {self.class_names[index]: self.labels == index for index in self._present()}

    def polygons(self) -> dict[str, list[list[NDArray[np.int32]]]]:
        """Outlines of the classes that are present.

        Returns:
            Per class a list of polygons, as in GeoJSON: each is a list of rings (P, 2) of x, y in pixels, first its
            outline, then its holes. Points are centres of border pixels (of a hole's, too); parts of one or two
            pixels, which have no outline, are left out.
        """
        return {name: _polygons(mask) for name, mask in self.masks().items()}

    def to_coco(self, *, image_id: int = 1, category_ids: Mapping[str, int] | None = None) -> dict[str, Any]:
        """The result as a COCO dataset with one annotation per class that is present.

        Args:
            image_id: of the image.
            category_ids: by class name; None: the index of the class.

        Returns:
            `images`, `categories` and `annotations`, ready for json.dump; each annotation has a run-length encoded
            `segmentation`, `area`, `bbox` (x, y, width, height) and `score`, the mean confidence in 0..1.

        Raises:
            KeyError: a class has no id.
        """
        import pycocotools.mask

        from ..evaluation.predictions import run_length

        ids = category_ids or {name: index for index, name in enumerate(self.class_names)}
        height, width = self.labels.shape
        annotations = []
        for number, (name, mask) in enumerate(self.masks().items(), start=1):
            segment = run_length(mask)
            annotations.append(
                {
                    "id": number,
                    "image_id": image_id,
                    "category_id": ids[name],
                    "segmentation": segment,
                    "area": int(pycocotools.mask.area(segment)),
                    "bbox": pycocotools.mask.toBbox(segment).tolist(),
                    "iscrowd": 0,
                    "score": float(self.confidence[mask].mean()),
                }
            )
        image = {"id": image_id, "file_name": self.path or "", "height": height, "width": width}
        categories = [{"id": ids[name], "name": name} for name in self.class_names]
        return {"images": [image], "categories": categories, "annotations": annotations}

    def to_supervision(self) -> "supervision.Detections":
        """N detections for the supervision library, one per class that is present, with its mask and mean confidence.

        Raises:
            ModuleNotFoundError: supervision is not installed.
        """
        supervision = import_extra("supervision", "supervision", "to_supervision()")
        masks = self.masks()
        stacked = np.stack(list(masks.values()))
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(stacked),
            mask=stacked,
            confidence=np.array([self.confidence[mask].mean() for mask in stacked]),
            class_id=np.array(self._present()),
            data={"class_name": np.array(list(masks))},
        )

    def overlay(self, *, alpha: float = 0.55, contours: bool = True) -> Image.Image:
        """The image with its labels painted over it; for arguments and errors see `draw_overlay`."""
        return Image.fromarray(draw_overlay(self.image, self.labels, self.colors, alpha=alpha, contours=contours))

    def panel(self, *, alpha: float = 0.55) -> Image.Image:
        """Image, overlay, trusty map (if there is one) and legend side by side.

        Args:
            alpha: share of the label colours in the overlay, 0..1, else a ValueError.
        """
        heatmaps = {} if self.trusty is None else {"Trusty map: seen classes": self.trusty}
        options: dict[str, Any] = {
            "alpha": alpha,
            "unseen": self.unseen_classes,
            "other": self.other,
            "heatmaps": heatmaps,
        }
        return prediction_panel(self.image, self.labels, self.class_names, self.colors, **options)

    def __repr__(self) -> str:
        height, width = self.labels.shape
        entries = legend_entries(self.labels, self.class_names, self.colors)
        shown = ", ".join(f"{entry.name} {100 * entry.share:.1f} %" for entry in entries[:LISTED])
        more = f", {len(entries) - LISTED} more" if len(entries) > LISTED else ""
        return f"<Segmentation of {width}x{height} pixels: {shown}{more}>"

    def _repr_png_(self) -> bytes:
        """The panel, for notebooks."""
        buffer = io.BytesIO()
        self.panel().save(buffer, format="PNG")
        return buffer.getvalue()

    def _present(self) -> list[int]:
        return np.unique(self.labels).tolist()


def check_threshold(threshold: float) -> None:
    """Raises a ValueError if `threshold` is no confidence."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a confidence between 0 and 1, got {threshold}")


def _grey_apart_from(colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    greys = np.repeat(np.array(OTHER_GREYS, np.uint8)[:, None], 3, axis=1)
    distances = np.linalg.norm(greys[:, None].astype(int) - colors, axis=-1)
    return greys[distances.min(axis=1).argmax()]


def _polygons(mask: NDArray[np.bool_]) -> list[list[NDArray[np.int32]]]:
    # RETR_CCOMP has two levels, outlines and their holes; hierarchy: next, previous, first hole, outline around it
    contours, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [contour[:, 0] for contour in contours]
    holes: dict[int, list[NDArray[np.int32]]] = {}
    for ring, (_, _, _, outline) in zip(rings, hierarchy[0], strict=True):
        holes.setdefault(outline, []).append(ring)
    outlines = [index for index, (_, _, _, outline) in enumerate(hierarchy[0]) if outline < 0]
    return [[rings[index], *holes.get(index, [])] for index in outlines if len(rings[index]) > 2]

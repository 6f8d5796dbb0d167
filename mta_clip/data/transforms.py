"""Resizing of images of any proportions."""

from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform
from numpy.typing import NDArray


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's; but an image whose longer side is limited keeps at least one pixel of the other, as 3x2000 may."""

    def get_transform(self, image: NDArray) -> Transform:
        """The transform for an image (H, W) or (H, W, C)."""
        resize = super().get_transform(image)
        if isinstance(resize, T.ResizeTransform) and not (resize.new_h and resize.new_w):
            size = max(resize.new_h, 1), max(resize.new_w, 1)
            return T.ResizeTransform(*image.shape[:2], *size, resize.interp)
        return resize

"""A model of four queries whose use of contexts is known, for the tests of the analysis of contexts."""

from types import SimpleNamespace

import torch

from mta_clip.modeling.outputs import HeadOutput, LayerPrediction

NAMES = ("sky", "road/way", "cat")


def logits_of(classes, num_rows=4):
    """Confident class logits (Q, K); the last row is "no object"."""
    return 20.0 * torch.nn.functional.one_hot(torch.tensor(classes), num_rows).float()


class FakeModel(torch.nn.Module):
    """Four queries on a 32 x 64 canvas of 8 x 16 cells: sky left, road in the middle, road right, and no object.

    The first three choose contexts 1, 0 and 2 for their class; for every other class their favourite is another one.
    """

    def __init__(self, similarity=True, image_size=(32, 64)):
        super().__init__()
        self.similarity, self.image_size = similarity, image_size

    def preprocess(self, batched_inputs):
        tensor = torch.zeros(len(batched_inputs), 3, 32, 64)
        return SimpleNamespace(tensor=tensor, image_sizes=[self.image_size] * len(batched_inputs))

    def predict_masks(self, images):
        count = len(images)
        masks = torch.full((4, 8, 16), -20.0)
        masks[0, :, :4], masks[1, :, 4:8], masks[2, :, 8:], masks[3] = 20.0, 20.0, 20.0, 20.0
        similarity = torch.full((3, count, 4, 4), -0.5)
        for query, (label, context) in enumerate([(0, 1), (1, 0), (1, 2), (3, 0)]):
            similarity[(context + 1) % 3, :, query] = 0.1
            similarity[:, :, query, label] = -0.2
            similarity[context, :, query, label] = 0.9
        layer = LayerPrediction(
            class_logits=logits_of([0, 1, 1, 3]).expand(count, -1, -1),
            mask_embed=torch.eye(4).expand(count, -1, -1),
            similarity=similarity if self.similarity else None,
        )
        return HeadOutput(mask_features=masks.expand(count, -1, -1, -1), layers=[layer])


def batch(count=1, size=(32, 64)):
    return [{"image": torch.full((3, *size), 90, dtype=torch.uint8), "file_name": f"{i}.png"} for i in range(count)]

import math

import pytest
import torch

from mta_clip.modeling.criterion import SimilarityLoss
from mta_clip.modeling.criterion.similarity_loss import context_imbalance, similarity_loss

KINDS = ("MixNeg", "SeparateNeg", "AllPos")


def slow(logits, labels, kind):
    """Written out query by query."""
    num_contexts, num_queries, num_rows = logits.shape
    losses = []
    for query in range(num_queries):
        e, y = logits[:, query].exp(), labels[query]
        best = max(range(num_contexts), key=lambda z: e[z, y].item())
        if kind == "AllPos":
            losses.append(-sum((e[z, y] / e.sum()).log() for z in range(num_contexts)) / num_contexts)
            continue
        total = e.sum()
        if kind == "SeparateNeg":
            total = sum(e[z, k] for z in range(num_contexts) for k in range(num_rows) if k != y or z == best)
        losses.append(-(e[best, y] / total).log())
    return torch.stack(losses)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_contexts", [1, 3])
def test_values_and_gradients_equal_the_definition(kind, num_contexts):
    logits = (3 * torch.randn(num_contexts, 6, 5)).double().requires_grad_()
    labels = torch.tensor([0, 4, 2, 4, 1, 3])
    fast, reference = similarity_loss(logits, labels, kind), slow(logits, labels, kind)
    assert torch.allclose(fast, reference)
    gradients = [torch.autograd.grad(values.sum(), logits)[0] for values in (fast, reference)]
    assert torch.allclose(*gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_uniform_guessing_over_ade20k(kind):
    loss = similarity_loss(torch.zeros(3, 1, 151), torch.tensor([7]), kind)
    terms = 3 * 151 - (2 if kind == "SeparateNeg" else 0)
    assert loss.item() == pytest.approx(math.log(terms), abs=1e-5)
    if kind != "SeparateNeg":
        assert loss.item() == pytest.approx(6.12, abs=5e-3)


@pytest.mark.parametrize(("kind", "floor"), [("AllPos", 4.16), ("SeparateNeg", 4.13), ("MixNeg", 4.13)])
def test_floor_of_raw_cosines_over_ade20k(kind, floor):
    """Without temperature the best possible cosines leave the loss high: the right class 1, all others -1."""
    similarity = torch.full((3, 1, 151), -1.0)
    if kind == "AllPos":
        similarity[..., 7] = 1.0
    else:
        similarity[0, :, 7] = 1.0
    labels = torch.tensor([7])
    assert similarity_loss(similarity, labels, kind).item() == pytest.approx(floor, abs=6e-3)
    assert SimilarityLoss(kind=kind)(similarity, labels, 0.07).item() < 1e-3 + (kind == "AllPos") * 1.1


def test_one_context_makes_all_kinds_equal_to_cross_entropy():
    logits, labels = torch.randn(1, 4, 6), torch.randint(6, (4,))
    expected = torch.nn.functional.cross_entropy(logits[0], labels, reduction="none")
    for kind in KINDS:
        assert torch.allclose(similarity_loss(logits, labels, kind), expected, atol=1e-6)


def test_any_number_of_leading_dimensions():
    similarity, labels = torch.rand(2, 3, 4, 5, 6), torch.randint(6, (3, 4, 5))
    losses = similarity_loss(similarity, labels, "MixNeg")
    assert losses.shape == (3, 4, 5)
    assert torch.allclose(losses[1, 2], similarity_loss(similarity[:, 1, 2], labels[1, 2], "MixNeg"))


def test_extreme_values_stay_finite():
    for kind in KINDS:
        logits = torch.tensor([[[100.0, -100.0, 0.0]]], requires_grad=True)
        loss = similarity_loss(logits, torch.tensor([1]), kind).sum()
        assert loss.item() == pytest.approx(200, abs=1e-3)
        loss.backward()
        assert logits.grad.isfinite().all()


def test_the_temperature_divides_the_cosines():
    similarity, labels = torch.rand(2, 5, 4), torch.randint(4, (5,))
    loss = SimilarityLoss(kind="MixNeg")
    expected = similarity_loss(similarity / 0.07, labels, "MixNeg")
    torch.testing.assert_close(loss(similarity, labels, 0.07), expected)
    torch.testing.assert_close(loss(similarity, labels, torch.tensor(0.07)), expected)
    assert torch.equal(loss(similarity, labels), similarity_loss(similarity, labels, "MixNeg"))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"'mixneg'.*MixNeg"):
        SimilarityLoss(kind="mixneg")
    with pytest.raises(ValueError, match=r"'mixneg'.*MixNeg"):
        similarity_loss(torch.zeros(1, 1, 2), torch.tensor([0]), "mixneg")


def choices(*contexts: int, num_contexts: int = 3) -> torch.Tensor:
    """Logits (Z, 1, 1, Q, 3) of queries of class 0 that are sure of their context."""
    chosen = torch.nn.functional.one_hot(torch.tensor(contexts), num_contexts).T.float()
    return (50 * chosen)[:, None, None, :, None].repeat(1, 1, 1, 1, 3)


class TestContextImbalance:
    def test_closed_forms(self):
        for contexts, expected in [
            ((0, 1, 2, 0, 1, 2), 0),
            ((1, 1, 1, 1, 1, 1), 1),
            ((1,), 1),
            ((0, 0, 0, 2, 2, 2), 1 - math.log(2) / math.log(3)),
        ]:
            class_0 = torch.zeros(1, 1, len(contexts), dtype=torch.int64)
            assert context_imbalance(choices(*contexts), class_0).item() == pytest.approx(expected, abs=1e-5)
        assert context_imbalance(choices(0, num_contexts=1), class_0[..., :1]).item() == 0
        two_layers = choices(0, 0, num_contexts=1).expand(-1, 2, -1, -1, -1)
        assert context_imbalance(two_layers, torch.full((2, 1, 2), 2)).tolist() == [0, 0]  # nothing is matched

    def test_only_matched_queries_count_by_the_text_of_their_class(self):
        logits = choices(0, 1, 2, 1)
        logits[:, ..., 1] = 0  # every context is as similar to class 1
        logits.requires_grad_()
        labels = torch.tensor([[[0, 2, 2, 1]]])  # two of four are no object
        value = context_imbalance(logits, labels)
        usage = torch.tensor([2 / 3, 1 / 6, 1 / 6])
        assert value.item() == pytest.approx(1 + (usage * usage.log()).sum().item() / math.log(3), abs=1e-5)
        value.sum().backward()
        assert logits.grad[:, 0, 0, 3, 1].any() and not logits.grad[:, 0, 0, 1:3].any()

    def test_without_matched_queries_it_is_zero_and_so_is_its_gradient(self):
        logits = choices(0, 1).requires_grad_()
        context_imbalance(logits, torch.full((1, 1, 2), 2)).sum().backward()
        assert context_imbalance(logits, torch.full((1, 1, 2), 2)) == 0 and not logits.grad.any()

    def test_its_gradient_leads_to_balance(self):
        logits = (0.02 * choices(1, 1, 0)).requires_grad_()
        labels = torch.zeros(1, 1, 3, dtype=torch.int64)
        optimizer = torch.optim.SGD([logits], lr=2.0)
        for _ in range(100):
            optimizer.zero_grad()
            context_imbalance(logits, labels).sum().backward()
            optimizer.step()
        assert context_imbalance(logits, labels).item() < 0.01

import pytest
import torch

from mta_clip.modeling import ops
from mta_clip.modeling.ops.dispatch import dispatch, plain_forms


def plain(tensor, name=""):
    """The definition."""
    return f"plain {name}"


def test_the_form_follows_the_device():
    operator = dispatch(plain, cpu=lambda tensor: "cpu")
    assert operator(torch.zeros(1)) == "cpu"
    assert operator(torch.zeros(1, device="meta"), name="x") == "plain x"
    everywhere = dispatch(plain, everywhere=lambda tensor: "everywhere", cpu=lambda tensor: "cpu")
    assert [everywhere(torch.zeros(1, device=device)) for device in ("cpu", "meta")] == ["cpu", "everywhere"]
    assert operator.__doc__ == "The definition." and operator.plain is plain


def test_plain_forms_can_be_asked_for():
    operator = dispatch(plain, cpu=lambda tensor: "cpu")
    with pytest.raises(RuntimeError, match="inside"), plain_forms():
        assert operator(torch.zeros(1)) == "plain "
        with plain_forms():
            pass
        assert operator(torch.zeros(1)) == "plain "
        raise RuntimeError("inside")
    assert operator(torch.zeros(1)) == "cpu"


def test_every_operator_has_a_plain_form():
    for name in ("deformable_sampling", "attention_with_bias", "mask_probabilities", "argmax_classes"):
        operator = getattr(ops, name)
        assert operator.plain.__name__ == operator.__name__ == name

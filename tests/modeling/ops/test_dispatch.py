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


def test_a_form_can_be_asked_for_by_name():
    operator = dispatch(plain, cpu=lambda tensor: "cpu", named={"other": lambda tensor: "other"})
    assert operator.forms == ("auto", "other")
    assert [operator(torch.zeros(1), form=form) for form in operator.forms] == ["cpu", "other"]
    with plain_forms():
        assert operator(torch.zeros(1), form="other") == "plain "


def test_every_operator_has_a_plain_form():
    operators = [getattr(ops, name) for name in ops.__all__ if hasattr(getattr(ops, name), "plain")]
    assert len(operators) == 6
    for operator in operators:
        name = operator.__name__
        assert operator.plain.__name__ == operator.__name__ == name

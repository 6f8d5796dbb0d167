import open_clip
import pytest
import torch
from torch.nn import functional as F

from mta_clip.modeling.text import TemplatePrompt, build_prompt_learner
from mta_clip.modeling.text.template import fill_templates, template_sets

NAMES = ["red disc", "blue ring", "striped green square"]


def test_template_prompts(cfg):
    cfg.MODEL.PROMPT.NAME = "TemplatePrompt"
    cfg.MODEL.PROMPT.TEMPLATES = ["a {}.", "the {}."]
    learner = build_prompt_learner(cfg)
    assert type(learner) is TemplatePrompt
    assert learner.templates == ["a {}.", "the {}."]


def test_templates_have_no_trained_parameters(templates):
    assert not any(p.requires_grad for p in templates.parameters())
    assert not templates.train()().requires_grad


def test_template_prompts_are_the_filled_templates(templates, text_encoder):
    prompts = ["one red disc", "one blue ring", "one striped green square", "one none"]
    torch.testing.assert_close(templates()[1], text_encoder(text_encoder.tokenize(prompts))[0], rtol=1e-4, atol=1e-5)


def test_averaged_templates(text_encoder):
    texts = ["a photo of a {}.", "a {} in the scene."]
    features = TemplatePrompt(text_encoder=text_encoder, class_names=NAMES, templates=texts).ensemble(NAMES)
    each = [text_encoder(text_encoder.tokenize([t.replace("{}", n) for n in NAMES]))[0] for t in texts]
    expected = F.normalize(sum(F.normalize(e, dim=-1) for e in each) / 2, dim=-1)
    assert features.shape == (3, 128)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3))


def test_fill_templates():
    assert fill_templates(["sky", "a {} b"], ["a {}.", "{}"]) == [["a sky.", "a a {} b."], ["sky", "a {} b"]]


@pytest.mark.parametrize("template", ["a photo", "{} beside {}"])
def test_a_template_has_one_place_for_the_name(template):
    with pytest.raises(ValueError, match=r"must contain \{\} once, where the class name goes"):
        fill_templates(NAMES, ["a {}.", template])


def test_bad_templates_are_refused_when_built(text_encoder):
    with pytest.raises(ValueError, match=r"'a photo of a wall wall .* is too long"):
        TemplatePrompt(text_encoder=text_encoder, class_names=["wall " * 28])
    with pytest.raises(ValueError, match=r"template 'a photo' must contain \{\} once"):
        TemplatePrompt(text_encoder=text_encoder, class_names=NAMES, templates=["a photo"])
    with pytest.raises(ValueError, match=r"MODEL\.PROMPT\.TEMPLATES needs at least one"):
        TemplatePrompt(text_encoder=text_encoder, class_names=NAMES, templates=[])


def test_template_sets_by_name():
    vild, own, imagenet, single = template_sets(["vild", "my {}", "imagenet80", "single"])
    assert (len(vild), own, single) == (14, ["my {}"], ["a photo of a {}."])
    assert imagenet == [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    with pytest.raises(ValueError, match=r"template 'coco' must contain .* sets are imagenet80, single, vild"):
        template_sets(["coco"])


def test_a_set_counts_as_one_template_whose_features_are_averaged(text_encoder):
    options = {"text_encoder": text_encoder, "class_names": NAMES}
    learner = TemplatePrompt(templates=["vild", "a {}."], **options)
    assert learner.num_contexts == 2 and learner().shape == (2, 4, 128)
    each = TemplatePrompt(templates=template_sets(["vild"])[0], **options)
    torch.testing.assert_close(F.normalize(learner()[0, :-1], dim=-1), each.ensemble(NAMES))
    torch.testing.assert_close(learner()[1:], TemplatePrompt(templates=["a {}."], **options)())
    assert learner() is learner()

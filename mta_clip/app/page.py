"""The page: what is where, and which answer each button gets."""

import functools
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..api.result import DEFAULT_THRESHOLD
from ..checkpoint import CheckpointError
from ..extras import import_extra
from .answers import Answer, Answers
from .jobs import Cancelled
from .models import describe
from .viewer_data import viewer_data

if TYPE_CHECKING:
    import gradio as gr
else:
    gr = import_extra("gradio", "app", "mta-clip app")

FILES = Path(__file__).parent
KEPT = 1800  # seconds for which the last answer of an idle visitor is kept
NAMES_HINT = "sky, road, my cat"
ERRORS = (ValueError, OSError, KeyError, CheckpointError, torch.OutOfMemoryError)  # that are told as a sentence
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def theme() -> gr.themes.ThemeClass:
    """Colours and fonts of the page; the fonts are those of the visitor's system."""
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
    faint = {  # darker, and in dark mode lighter, than Gradio's, which are hard to read
        f"{name}{mode}": color
        for name in ("body_text_color_subdued", "block_info_text_color")
        for mode, color in (("", "*neutral_600"), ("_dark", "*neutral_300"))
    }
    return gr.themes.Default(primary_hue="blue", secondary_hue="blue", neutral_hue="slate", **fonts).set(**faint)


def build_page(answers: Answers, *, examples: Sequence[str | Path] = ()) -> gr.Blocks:
    """The page, not yet served.

    Args:
        examples: images to start from, in a folder that Gradio may read, such as one for temporary files.
    """
    with gr.Blocks(title="mta-clip", analytics_enabled=False, delete_cache=(600, KEPT)) as page:
        answer = gr.State(time_to_live=KEPT)
        gr.HTML("<h1>mta-clip</h1><p>Segmentation of photos, by class names</p>", elem_classes="head")
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                inputs = _inputs(answers)
                with gr.Row():
                    start = gr.Button("Segment", variant="primary", min_width=120, elem_id="segment")
                    stop = gr.Button("Cancel", min_width=120, elem_id="cancel")
                if examples:
                    gr.Examples([[str(path)] for path in examples], inputs=inputs[:1], examples_per_page=8)
            with gr.Column(scale=8, min_width=300):
                status = gr.HTML(visible=False, elem_id="status")
                viewer = _viewer()
                with gr.Row():
                    downloads = [
                        gr.DownloadButton(text, elem_id=f"download-{kind}", size="sm", visible=False)
                        for kind, text in (
                            ("labels", "Labels (PNG)"),
                            ("overlay", "Overlay (PNG)"),
                            ("coco", "COCO JSON"),
                        )
                    ]
                region = gr.HTML(visible=False, elem_id="region")
        _connect(answers, inputs, (start, stop), answer, (status, viewer, *downloads, region))
    return page


def _inputs(answers: Answers) -> list[Any]:
    """Photo, model, names, other and threshold."""
    first = answers.models.names[0]
    photo = gr.Image(
        label="Photo",
        type="filepath",
        sources=["upload", "webcam", "clipboard"],
        height=280,
        elem_id="photo",
        buttons=["fullscreen"],
    )
    # unread, so that a broken file gets our sentence; a subclass would make Gradio write a page.pyi beside this file
    photo.preprocess = lambda file: None if file is None else file.path
    model = gr.Dropdown(
        answers.models.names, value=first, label="Model", info=describe(answers.models[first]), elem_id="model"
    )
    names = gr.Textbox("", elem_id="names", **_names_field(answers, first))
    with gr.Accordion("Pixels that no name fits", open=False):
        other = gr.Textbox(
            "", label="Their name", placeholder="other: empty gives every pixel a class", elem_id="other"
        )
        threshold = gr.Slider(
            0, 1, value=DEFAULT_THRESHOLD, step=0.01, label="Confidence that a class needs", elem_id="threshold"
        )
    model.change(functools.partial(_chosen, answers), model, [model, names], **QUIET)
    return [photo, model, names, other, threshold]


def _names_field(answers: Answers, model: str) -> dict[str, Any]:
    """Properties of the field of class names for a model."""
    segmenter = answers.models[model]
    own = ", ".join(segmenter.class_names)
    usable = segmenter.takes_names
    info = (
        "Any words: commas between names, semicolons between synonyms. Empty: those of the training."
        if usable
        else "This model knows only its own."
    )
    return {
        "label": "Class names",
        "info": info,
        "placeholder": NAMES_HINT if usable else own,
        "interactive": usable,
    }


def _chosen(answers: Answers, model: str) -> tuple[Any, Any]:
    try:
        return gr.update(info=describe(answers.models[model])), gr.update(**_names_field(answers, model))
    except ERRORS as error:
        return gr.update(info=f"It cannot be loaded: {error}"), gr.update(interactive=False)


def _viewer() -> gr.HTML:
    html, css, js = (
        (FILES / "viewer" / f"viewer.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    return gr.HTML(html_template=html, css_template=css, js_on_load=js, elem_id="viewer", apply_default_css=False)


def _connect(answers: Answers, inputs: list[Any], buttons: tuple[Any, Any], answer: Any, shown: tuple) -> None:
    (start, stop), (status, viewer, _, overlay, _, region) = buttons, shown

    def segment(
        path: str | None,
        model: str,
        names: str,
        other: str,
        threshold: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it by its default
    ) -> list[Any]:
        def report(done: int, total: int, unit: str) -> None:
            progress((done, total), desc="Segmenting", unit=f"{unit}s")

        progress(0, desc="Waiting for the model")
        try:
            session = request.session_hash
            new = answers.segment(path, model, names, other, threshold, session=session, report=report)
            files = [gr.update(value=str(file), visible=True) for file in answers.downloads(new)]
        except Cancelled:
            return [gr.skip(), _status("Cancelled."), *[gr.skip()] * 5]
        except ERRORS as error:
            return [None, _status(_sentence(error, path), error=True), None, *_no_files(), _nothing()]
        return [new, _status(new.summary), viewer_data(new.result), *files, _nothing()]

    def cancel(request: gr.Request) -> Any:
        return _status("Cancelled.") if answers.jobs.cancel(request.session_hash) else gr.skip()

    def redraw(current: Answer | None, event: gr.EventData) -> Any:
        if current is None:
            return gr.skip()
        return str(answers.overlay(current, alpha=event.alpha, hidden=event.hidden))

    def explain(current: Answer | None, event: gr.EventData) -> Any:
        expired = '<p class="status">This result is no longer kept: press Segment again.</p>'
        text = expired if current is None else answers.explain(current, event.x, event.y)
        return gr.update(value=text, visible=True)

    running = gr.on(
        [start.click, inputs[2].submit],
        segment,
        inputs,
        [answer, *shown],
        show_progress="full",
        show_progress_on=[viewer],
        api_visibility="private",
        concurrency_id="models",  # they take one image at a time
    )
    stop.click(cancel, outputs=status, cancels=[running], **QUIET)
    viewer.input(redraw, answer, overlay, trigger_mode="always_last", **QUIET)
    viewer.click(explain, answer, region, trigger_mode="always_last", concurrency_id="models", **QUIET)


def _status(text: str, *, error: bool = False) -> Any:
    kind, role = ("status error", "alert") if error else ("status", "status")
    return gr.update(value=f'<p class="{kind}" role="{role}">{escape(text)}</p>', visible=True)


def _nothing() -> Any:
    return gr.update(value="", visible=False)


def _no_files() -> list[Any]:
    return [gr.update(value=None, visible=False) for _ in range(3)]


def _sentence(error: Exception, path: str | None) -> str:
    """What to tell a visitor about an error, who does not know where the photo lies on this machine."""
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    text = text.replace(f"{path}: ", "") if path else text
    return text[:1].upper() + text[1:]

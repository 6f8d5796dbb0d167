from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

pytest.importorskip("gradio", reason="the page needs pip install 'mta-clip[app]'")

import mta_clip
from mta_clip.app.answers import Answers
from mta_clip.app.server import serving


class FakeModels(dict):
    names = ("toy",)


def test_the_page_and_its_files(toy, photo):
    with serving(Answers(FakeModels(toy=toy), max_pixels=2000), examples=[photo]) as address:
        assert address.startswith("http://127.0.0.1:")
        with urlopen(address) as answer:
            text = answer.read().decode()
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert '<script src="http' not in text and "street.png" in text
        for path in ("/etc/hostname", photo, mta_clip.__file__):
            with pytest.raises(HTTPError) as refusal:
                urlopen(f"{address}gradio_api/file={path}")
            assert refusal.value.code in (403, 404)
        example = next(Path(address_of(text)).parent.glob("*.png"))
        with urlopen(f"{address}gradio_api/file={example}") as answer:
            assert answer.read() == Path(photo).read_bytes()
    assert not example.exists()
    with pytest.raises(OSError):
        urlopen(address)


def address_of(text):
    """The path of the example in the page's source."""
    return text.split('street.png"')[0].split('"')[-1] + "street.png"

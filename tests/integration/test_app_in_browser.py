"""The page of `mta-clip app`, as a visitor with a browser uses it: pytest -m browser."""

import io
import json
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from saved_models import mta_clip_config, write_run
from toy_predictor import NAMES, BrightnessSegmentor, make_config

import mta_clip

pytestmark = pytest.mark.browser
pytest.importorskip("gradio", reason="the page needs pip install 'mta-clip[app]'")
webdriver = pytest.importorskip("selenium.webdriver", reason="these tests need pip install selenium")
BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("there is no chromium with a chromedriver: apt install chromium-driver", allow_module_level=True)

from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from mta_clip.app.answers import Answers  # noqa: E402
from mta_clip.app.models import Models  # noqa: E402
from mta_clip.app.server import serving  # noqa: E402

PATIENCE = 90  # seconds; other programs may use the cores, too
AUGMENTED = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", list(range(16, 56)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The toy model, tiny MTA-CLIP, and photos: dark at the left, bright at the right."""
    folder = tmp_path_factory.mktemp("app")
    make_config(folder)
    write_run(folder / "mta", mta_clip_config())
    for name, dark in (("street.png", 20), ("lawn.png", 10)):
        picture = np.full((30, 40, 3), (200, 220, 240), np.uint8)
        picture[:, :dark] = (20, 40, 30)
        Image.fromarray(picture).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "street.png").read_bytes()[:60])
    (folder / "text.png").write_text("no image")
    Image.new("RGB", (300, 200)).save(folder / "large.png")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    models = Models([str(folder / "model.pth"), str(folder / "mta")], ["MODEL.DEVICE", "cpu"])
    with serving(Answers(models, max_pixels=50_000), examples=[str(folder / "lawn.png")]) as address:
        yield address


@pytest.fixture(scope="module")
def toy(folder):
    return mta_clip.load(folder / "model.pth", device="cpu")


@contextmanager
def visitor(address, *, width=1280, height=1100, scheme="light"):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        with tempfile.TemporaryDirectory() as folder:
            driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": folder})
            driver.get(address)
            yield Page(driver, Path(folder))
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def shared(address):
    with visitor(address) as page:
        yield page


@pytest.fixture
def page(shared, address):
    """A page as it is when it opens, in a browser that is already running."""
    shared.driver.get(address)
    return shared


class Page:
    """What a visitor does and sees."""

    def __init__(self, driver, folder):
        self.driver, self.folder = driver, folder

    def wait(self, condition):
        return WebDriverWait(self.driver, PATIENCE).until(lambda _: condition())

    def find(self, selector):
        return self.wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, selector))[0]

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.find(selector).text

    def upload(self, path):
        if clear := self.all('#photo button[aria-label="Remove Image"]'):
            clear[0].click()
        self.find("#photo input[type=file]").send_keys(str(path))
        self.find("#photo img")

    def status(self, part):
        return self.wait(lambda: next((x.text for x in self.all("#status .status") if part in x.text), ""))

    def segment(self, path, part=" s with "):
        self.upload(path)
        self.find("#segment").click()
        line = self.status(part)
        self.wait(lambda: self.all('.viewer[data-state="ready"]') and self.all(".legend li"))
        return line

    def choose(self, selector, value):
        self.find(f"{selector} input").click()
        next(option for option in self.wait(lambda: self.all("[role=option]")) if option.text.strip() == value).click()

    def press(self, text):
        next(button for button in self.all("button") if button.text == text).click()

    def canvas(self, frame="painting"):
        script = """const c = document.querySelector(arguments[0]);
            return [c.width, c.height, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"""
        width, height, data = self.driver.execute_script(script, f".{frame} canvas")
        return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]

    def point_at(self, x, y):
        canvas = self.find(".painting canvas")
        box = canvas.rect
        offsets = round((x - 0.5) * box["width"]), round((y - 0.5) * box["height"])
        ActionChains(self.driver).move_to_element_with_offset(canvas, *offsets).perform()
        return self.text(".tip")

    def legend(self):
        return {row.text.split("\n")[0]: row.text.split("\n")[-1] for row in self.all(".legend li")}

    def download(self, kind):
        """The bytes that a button saves as a file."""
        for file in self.folder.iterdir():
            file.unlink()
        self.find(f"#download-{kind}").click()
        files = self.wait(lambda: [file for file in self.folder.iterdir() if file.suffix in (".png", ".json")])
        self.wait(lambda: files[0].stat().st_size)
        return files[0].read_bytes()

    def picture(self, kind):
        return np.array(Image.open(io.BytesIO(self.download(kind))))


def test_from_a_photo_to_its_labels(page, folder, toy):
    line = page.segment(folder / "street.png")
    assert "40 x 30 pixels, 2 classes" in line
    assert page.point_at(0.2, 0.5).startswith("dark thing") and page.point_at(0.9, 0.1).startswith("bright thing")
    assert "confidence 100 %" in page.point_at(0.9, 0.5)
    expected = toy(folder / "street.png")
    share = 100 * expected.labels.mean()
    assert page.legend() == {"bright thing": f"{share:.1f} %", "dark thing": f"{100 - share:.1f} %"}
    assert np.array_equal(page.picture("labels"), expected.labels)
    coco = json.loads(page.download("coco"))
    assert coco == json.loads(json.dumps(expected.to_coco() | {"images": coco["images"]}))
    assert coco["images"][0]["file_name"] == "street.png"
    assert np.array_equal(page.picture("overlay"), np.array(expected.overlay()))


def test_the_overlay_follows_opacity_and_legend(page, folder):
    page.segment(folder / "street.png")
    colored = page.canvas().astype(int)
    page.press("Photo")
    photo = page.canvas().astype(int)
    assert abs(colored - photo).mean() > 5
    page.press("Overlay")
    slider = page.find(".opacity input")
    slider.send_keys(Keys.END)
    assert page.text(".opacity output") == "100 %"
    full = page.canvas().astype(int)
    height, width = full.shape[:2]
    corner = full[height - 5 :, width - 5 :].reshape(-1, 3)
    assert (corner == corner[0]).all() and abs(full - photo).mean() > abs(colored - photo).mean()
    page.all(".legend li button")[0].click()
    hidden = page.canvas().astype(int)
    assert (hidden[-5:, -5:] == photo[-5:, -5:]).all() and (hidden[:, :5] == full[:, :5]).all()
    assert page.all(".legend li button")[0].get_attribute("aria-pressed") == "false"
    page.wait(lambda: (page.picture("overlay")[-3:, -3:] == (200, 220, 240)).all())
    assert abs(page.picture("overlay")[:, :5] - np.array((20.0, 40, 30))).mean() > 5


def test_views(page, folder):
    page.segment(folder / "street.png")
    page.press("Side by side")
    boxes = [page.find(f".{name} canvas").rect for name in ("original", "painting")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert abs(page.canvas("original").astype(int) - page.canvas()).mean() > 5
    page.press("Trusty map")
    heat = page.canvas()
    assert heat[:200, -20:].mean() > heat[:200, :20].mean()  # bright pixels are those that the toy trusts
    assert "trusty 0.4" in page.point_at(0.9, 0.5)


def test_other_names_and_other_models(page, folder):
    page.find("#names textarea").send_keys("night, day, my cat" + Keys.ENTER)
    assert page.status("Choose an image first.")
    page.find("#names textarea").clear()
    page.find("#names textarea").send_keys("night, day, my cat")
    page.segment(folder / "street.png")
    assert set(page.legend()) == {"night", "day"}
    page.choose("#model", "mta")
    page.wait(lambda: "MTA-CLIP" in page.text("#model"))
    page.find("#segment").click()
    assert "is a guess" in page.status("with mta")
    page.wait(lambda: set(page.legend()) <= {"night", "day", "my cat"})


def test_the_masks_of_a_region(page, folder):
    page.choose("#model", "mta")
    page.segment(folder / "street.png", "with mta")
    name = page.point_at(0.9, 0.5).split("\n")[0]
    page.find(".painting canvas").click()
    page.wait(lambda: page.all("#region .masks li"))
    assert page.text("#region h3") in page.legend() and name
    words = page.text("#region .masks li").split()
    assert {"query", "linear", "text", "context"} <= set(words)
    assert page.find("#region .masks img").get_attribute("naturalWidth") == "220"


@pytest.mark.parametrize(
    "name, sentence",
    [("broken.png", "cannot be read"), ("text.png", "no image format"), ("large.png", "at most 0.1 million")],
)
def test_a_bad_image_gets_a_sentence(page, folder, name, sentence):
    page.segment(folder / "street.png")
    page.find('#photo button[aria-label="Remove Image"]').click()
    page.find("#photo input[type=file]").send_keys(str(folder / name))
    time.sleep(2)  # an image that cannot be shown never appears
    page.find("#segment").click()
    line = page.status(sentence)
    assert line[0].isupper() and str(folder) not in line and "/tmp" not in line
    assert page.find("#status .status").get_attribute("role") == "alert"
    page.wait(lambda: page.all('.viewer[data-state="empty"]'))
    assert "2 classes" in page.segment(folder / "street.png")


def test_with_the_keyboard_alone(page, folder):
    def tab_to(selector):
        for _ in range(60):
            active = page.driver.switch_to.active_element
            if active == page.find(selector):
                return active
            active.send_keys(Keys.TAB)
        raise AssertionError(f"{selector} is not reached by Tab")

    page.upload(folder / "street.png")
    page.find("#segment")
    tab_to("#names textarea").send_keys("night, day")
    tab_to("button#segment").send_keys(Keys.ENTER)
    page.status("pixels,")
    page.wait(lambda: page.all(".legend li"))
    tab_to('[data-view="overlay"]').send_keys(Keys.ARROW_RIGHT)
    assert page.find(".original canvas").is_displayed()
    canvas = tab_to(".painting canvas")
    for _ in range(3):
        canvas.send_keys(Keys.SHIFT, Keys.ARROW_LEFT)
    assert page.text(".tip").startswith("night") and page.find(".spoken").get_attribute("textContent").startswith(
        "night"
    )
    canvas.send_keys(Keys.ENTER)
    page.wait(lambda: "night" in page.text("#region"))
    toggle = tab_to(".legend li button")
    toggle.send_keys(Keys.SPACE)
    assert toggle.get_attribute("aria-pressed") == "false"
    tab_to("#download-labels")


def test_two_visitors_get_their_own_results(page, address, folder, toy):
    own, others = (toy(folder / name).labels for name in ("street.png", "lawn.png"))
    with visitor(address) as other:
        page.upload(folder / "street.png")
        other.upload(folder / "lawn.png")
        for visiting in (page, other):
            visiting.find("#segment").click()
        for visiting in (page, other):
            visiting.status("2 classes")
        other.wait(other.legend)
        other.press("Hide all")
        assert np.array_equal(page.picture("labels"), own) and np.array_equal(other.picture("labels"), others)
        page.find(".painting canvas").click()
        assert "bright thing" in page.wait(lambda: page.text("#region"))
        assert page.all(".legend li button")[0].get_attribute("aria-pressed") == "true" and not other.all("#region p")


def test_an_example(page, folder, toy):
    page.find(".gallery-item").click()
    page.find("#photo img")
    page.find("#segment").click()
    page.status("pixels,")
    assert page.wait(page.legend)["bright thing"] == f"{100 * toy(folder / 'lawn.png').labels.mean():.1f} %"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(address, folder, scheme):
    with visitor(address, width=390, height=844, scheme=scheme) as page:
        page.segment(folder / "street.png")
        width = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390 and page.find(".painting canvas").rect["width"] > 300
        ground = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, ground[ground.index("(") + 1 : -1].split(",")[:3])) / 3
        assert light > 200 if scheme == "light" else light < 60


def test_no_request_leaves_the_machine(address, folder):
    with visitor(address) as page:
        page.segment(folder / "street.png")
        page.find(".painting canvas").click()
        page.wait(lambda: page.text("#region"))
        events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def test_only_given_files_are_served(address, folder):
    for path in ("/etc/hostname", str(folder / "street.png"), str(mta_clip.__file__)):
        with pytest.raises(HTTPError) as refusal:
            urlopen(f"{address}gradio_api/file={path}")
        assert refusal.value.code in (403, 404)
    with urlopen(address) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


def test_progress_and_cancel(folder, monkeypatch):
    predict, calls = BrightnessSegmentor.predict, []
    monkeypatch.setattr(
        BrightnessSegmentor, "predict", lambda self, x: (time.sleep(0.5), calls.append(1), predict(self, x))[-1]
    )
    models = Models([str(folder / "model.pth")], ["MODEL.DEVICE", "cpu", *AUGMENTED])
    with serving(Answers(models, max_pixels=50_000)) as address, visitor(address) as page:
        page.upload(folder / "street.png")
        page.find("#segment").click()
        page.wait(lambda: "Segmenting" in page.text("#viewer"))
        page.find("#cancel").click()
        page.status("Cancelled.")
        time.sleep(2)
        done = len(calls)
        time.sleep(2)
        assert done == len(calls) < len(AUGMENTED[3])
        assert page.all('.viewer[data-state="empty"]')
        assert NAMES[0] not in page.text("#viewer")

"""Pages in a real headless Chromium: nothing is loaded, nothing is said on the console, nothing leaves the screen."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from isobit.pages.compare import compare_page
from isobit.pages.report import report_page
from tests.examples.pages import HOSTILE, made_artifact, node, sample, tensor, write_artifact

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium (pip install 'isobit[browser]')")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="chromium or chromedriver is not installed"),
    pytest.mark.slow,
]
PICTURES = Path(__file__).parent / "pictures"
LONG = "features.a_module_with_a_very_long_name_that_never_ends.and_one_more.layers.11.convolution"


class Browser:
    """A Chromium that is driven.

    Args:
        driver: of selenium.
    """

    def __init__(self, driver) -> None:
        self.driver = driver

    def show(self, path, width=1440, scheme="light", script=True):
        """Open a page; forgets what was logged before."""
        said = self.driver.execute_cdp_cmd
        said("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        said("Emulation.setDeviceMetricsOverride",
             {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
        said("Emulation.setScriptExecutionDisabled", {"value": not script})
        self.driver.get_log("performance"), self.driver.get_log("browser")
        self.driver.get(path.as_uri())

    def requests(self):
        """Addresses that were asked for, but for the page and what lies within it."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [event["params"]["request"]["url"] for event in events
                 if event["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith("data:")][1:]

    def whole(self):
        """The page from top to end."""
        width, height = self.run("return [window.innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")

    def run(self, script):
        return self.driver.execute_script(script)

    def picture(self):
        return Image.open(io.BytesIO(base64.b64decode(self.driver.get_screenshot_as_base64()))).convert("RGB")


@pytest.fixture(scope="module")
def browser():
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report and a comparison, of names that are long or hostile."""
    folder = tmp_path_factory.mktemp("pages")
    nodes = [node("step0", module=LONG), node("step1", ["step0"], runs="float", weight=None, weight_tensor=None),
             node("step2", ["step0", "step1"], module="last")]
    made = {"report.html": report_page(made_artifact(folder / "a", nodes=nodes)),
            "compare.html": compare_page([folder / "a", write_artifact(folder / LONG)])}
    for name, text in made.items():
        (folder / name).write_text(text)
    return {name: folder / name for name in made}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Pages as of digits: names and lengths of every day, a picture as pictures are, all sections."""
    folder = tmp_path_factory.mktemp("shown")
    grey = Image.new("L", (8, 8), 96)
    grey.paste(220, (2, 1, 6, 7))
    written = io.BytesIO()
    grey.save(written, format="PNG")
    picture = base64.b64encode(written.getvalue()).decode()
    nodes = [node(f"step{place}", [f"step{place - 1}"] if place else [], module=f"blocks.{place}.layers.0", note="",
                  runs="float" if place == 4 else "integer") for place in range(8)]
    plain = {"truth": "class 0", "data": picture}
    samples = [sample(place, truth_index=7 if place == 3 else 0, after=(1, 0) if place == 5 else (0, 1), **plain)
               for place in range(8)]
    tensors = [tensor(f"step{place}", network=45.0 - 5 * place, own=40.0 - place) for place in range(8)]
    told = {"nodes": nodes, "samples": samples, "tensors": tensors, "notes": ["weight codes keep to +-64"]}
    one = made_artifact(folder / "digits", length=8, **told)
    write_artifact(folder / "other", length=8, **{**told, "nodes": [*nodes[:-1], node("step7", ["step6"], weight="8",
                                                                                      module="blocks.7.layers.0")]})
    plainly = [text.replace(str(escape(HOSTILE)), "a name") for text in (
        report_page(one), compare_page([folder / "digits", folder / "other"]))]
    paths = {name: folder / f"{name}.html" for name in ("report", "compare")}
    for path, text in zip(paths.values(), plainly, strict=True):
        path.write_text(text)
    return paths


def likeness(found, stored):
    """(height of `found` over that of `stored` at one width, mean difference of blocks of 6 pixels, share of blocks
    that differ by more than 24 of 255), the last two after both have one size: fonts move letters, not blocks.
    """
    height = found.height * stored.width / found.width / stored.height
    blocks = [np.asarray(one.convert("RGB").resize((stored.width // 6, stored.height // 6), Image.Resampling.BOX),
                         np.float64) for one in (found, stored)]
    away = np.abs(blocks[0] - blocks[1]).max(axis=2)
    return height, away.mean(), (away > 24).mean()


def is_alike(found, stored):
    height, mean, share = likeness(found, stored)
    return abs(height - 1) < 0.06 and mean < 7 and share < 0.07


FONTS = """
const pen = document.createElement("canvas").getContext("2d");
return ["body", "code"].map(name => {
  pen.font = "16px " + getComputedStyle(document.querySelector(name)).fontFamily;
  return pen.measureText("The quick brown fox, 0123456789").width;
});
"""


def check_fonts(browser):
    """Skips where text has other widths than when the pictures were taken: lines break elsewhere then."""
    found, path = browser.run(FONTS), PICTURES / "fonts.json"
    if os.environ.get("WRITE_PICTURES"):
        path.write_text(json.dumps(found) + "\n")
    if found != pytest.approx(json.loads(path.read_text()), rel=0.005):
        pytest.skip("other fonts than those that the pictures were taken with")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_page_looks_as_it_was_looked_at(browser, shown, name, width, scheme):
    """Compared with the pictures beside this file; WRITE_PICTURES=1 writes them again: look at them then."""
    browser.show(shown[name], width, scheme)
    check_fonts(browser)
    whole, path = browser.whole(), PICTURES / f"{name}-{width}-{scheme}.jpg"
    if os.environ.get("WRITE_PICTURES"):
        side = 120 if width == 390 else 288
        small = whole.resize((side, round(whole.height * side / whole.width)), Image.Resampling.LANCZOS)
        small.save(path, quality=70, optimize=True)
    stored = Image.open(path).convert("RGB")
    assert is_alike(whole, stored), likeness(whole, stored)


def test_what_looks_otherwise_is_told(browser, shown):
    stored = Image.open(PICTURES / "report-1440-light.jpg").convert("RGB")
    browser.show(shown["report"], 1440, "dark")
    assert not is_alike(browser.whole(), stored)
    browser.show(shown["report"], 1440, "light")
    for change in ("document.querySelector('#layers').remove()", "document.querySelector('style').remove()"):
        browser.run(change)
        assert not is_alike(browser.whole(), stored), change
        browser.show(shown["report"], 1440, "light")
    browser.run("document.querySelectorAll('section').forEach(e => { e.style.marginLeft = '120px' })")
    assert not is_alike(browser.whole(), stored)
    assert sum(file.stat().st_size for file in PICTURES.iterdir()) < 400_000


def luminance(color):
    """Relative luminance of `rgb(1, 2, 3)`, as of WCAG."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", ["report.html", "compare.html"])
def test_a_page_asks_for_nothing_says_nothing_and_fits(browser, pages, name, width, scheme):
    browser.show(pages[name], width, scheme)
    assert browser.requests() == [] and browser.driver.get_log("browser") == []
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return window.innerWidth") == width
    small = "return [...document.querySelectorAll('p, td, th, li, dd, figcaption')].filter(e => e.offsetParent && " \
            "parseFloat(getComputedStyle(e).fontSize) < 11.5).length"
    assert browser.run(small) == 0
    assert len(browser.picture().resize((60, 60)).getcolors(3600)) > 20  # something is drawn


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_both_schemes(browser, pages, scheme):
    browser.show(pages["report.html"], 1440, scheme)
    back = luminance(browser.run("return getComputedStyle(document.body).backgroundColor"))
    assert (back > 0.5) == (scheme == "light")
    for chosen in ("body", ".lead", ".verdict p", "td.note", "caption", ".down", "a", "summary"):
        colors = browser.run(f"""let e = document.querySelector('{chosen}'), color = getComputedStyle(e).color;
            while (getComputedStyle(e).backgroundColor === 'rgba(0, 0, 0, 0)') e = e.parentElement;
            return [color, getComputedStyle(e).backgroundColor]""")
        low, high = sorted(luminance(color) for color in colors)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (chosen, colors)


def test_the_table_sorts_and_filters(browser, pages):
    browser.show(pages["report.html"])
    names = "return [...document.querySelectorAll('#layer-table tbody tr')].filter(r => !r.hidden)" \
            ".map(r => r.cells[1].textContent)"
    head = "document.querySelectorAll('#layer-table thead th')[1]"
    assert browser.run(names) == ["1", "2", "3"]
    browser.run(f"{head}.querySelector('button').click(); {head}.querySelector('button').click()")
    assert browser.run(names) == ["3", "2", "1"]
    assert browser.run(f"return {head}.getAttribute('aria-sort')") == "descending"
    browser.run("let i = document.querySelector('.tools input'); i.value = 'NEVER_ends';"
                "i.dispatchEvent(new Event('input'))")
    assert browser.run(names) == ["1"] and browser.run("return document.querySelector('output').value") == "1 of 3 rows"
    browser.run("let i = document.querySelector('.tools input'); i.value = ''; i.dispatchEvent(new Event('input'));"
                "let s = document.querySelector('.tools select'); s.value = 'float';"
                "s.dispatchEvent(new Event('change'))")
    assert browser.run(names) == ["2"]


def test_without_script_everything_but_sorting_is_there(browser, pages):
    browser.show(pages["report.html"], script=False)
    page = browser.driver.page_source
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert page.count("data-runs=") == 3 and 'hidden=""' in page and "<button" not in page


def test_a_page_prints(browser, pages):
    browser.show(pages["report.html"])
    printed = base64.b64decode(browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert printed.startswith(b"%PDF") and 1 <= printed.count(b"/Type /Page\n") <= 12

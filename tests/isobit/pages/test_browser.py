"""Pages in a real headless Chromium: nothing is loaded, nothing is said on the console, nothing leaves the screen."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil

import pytest
from PIL import Image

from isobit.pages.compare import compare_page
from isobit.pages.report import report_page
from tests.examples.pages import made_artifact, node, write_artifact

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium (pip install 'isobit[browser]')")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="chromium or chromedriver is not installed"),
    pytest.mark.slow,
]
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

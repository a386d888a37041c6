"""The page of a run in a real browser: as a reader meets it, on a desk, on a phone, in the dark, on paper."""

from __future__ import annotations

import itertools
import struct
import subprocess
import sys
from pathlib import Path

import chromium
import pytest
import report_runs
from playwright.sync_api import Page, expect

from lib import comparison, records, report

BUILDERS = {
    "completed": report_runs.completed,
    "failed": report_runs.failed,
    "running": report_runs.running,
    "interrupted": report_runs.interrupted,
    "again": report_runs.again,
}
UNFOLD = "document.querySelectorAll('details').forEach(one => { one.open = true })"
LEAST_CONTRAST = 4.5  # WCAG 2.2, AA
VISIBLE_TEXT_CONTRASTS = """
() => {
  const channels = colour => {
    const numbers = colour.match(/[\\d.]+/g).map(Number);
    return numbers.length > 3 ? numbers : [...numbers, 1];
  };
  const over = (above, below) => above.slice(0, 3).map((c, i) => c * above[3] + below[i] * (1 - above[3]));
  const ground = element => {
    if (element === null) return [255, 255, 255];
    const box = element.closest("svg .box");
    if (box) return over(channels(getComputedStyle(box.querySelector("rect")).fill), [255, 255, 255]);
    const own = channels(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, ground(element.parentElement));
  };
  const luminance = colour => {
    const [r, g, b] = colour.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const words = walker.currentNode.textContent.trim();
    if (!words || !element.checkVisibility({visibilityProperty: true, contentVisibilityAuto: true})) continue;
    if (element.closest("title, .visually-hidden")) continue;
    const style = getComputedStyle(element);
    const below = ground(element);
    const colour = over(channels(element.closest("svg") ? style.fill : style.color), below);
    const [light, dark] = [luminance(colour), luminance(below)].sort((a, b) => b - a);
    found.push([words.slice(0, 60), (light + 0.05) / (dark + 0.05)]);
  }
  return found;
}
"""
MARGINS_OF_WORDS = """
boxes => boxes.map(box => {
  const outer = box.querySelector("rect").getBBox();
  return [...box.querySelectorAll("text")].map(text => {
    const inner = text.getBBox();
    return [inner.x - outer.x, outer.x + outer.width - inner.x - inner.width,
            inner.y - outer.y, outer.y + outer.height - inner.y - inner.height];
  });
})
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: report.write(build(folder / name)) for name, build in BUILDERS.items()}


@pytest.fixture(params=sorted(BUILDERS))
def path(request: pytest.FixtureRequest, reports: dict[str, Path]) -> Path:
    """The page of a run of one kind after the other."""
    return reports[request.param]


@pytest.fixture(scope="module")
def others(reports: dict[str, Path]) -> dict[str, Path]:
    """The other pages: of a notebook, of all runs, of two runs compared."""
    outputs = reports["completed"].parents[1]
    runs = [records.read_run(outputs / name) for name in ("completed", "again")]
    for run, name in zip(runs, ("completed", "again"), strict=True):
        run.run_id = name  # as the folder is called
    return {
        "notebook": outputs / "completed" / "06_evaluate.html",
        "index": report.write_index(outputs),
        "diff": report.write_diff(outputs, comparison.compare(outputs, *runs)),
    }


@pytest.mark.parametrize("name", ["notebook", "index", "diff"])
def test_the_other_pages_are_as_offline_narrow_and_legible(page, others, name):
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(others[name].as_uri(), wait_until="networkidle")
    assert [url for url in requests if not url.startswith("data:")] == [others[name].as_uri()]
    assert complaints == []
    expect(page.locator("h1")).to_have_count(1)
    for scheme, width in itertools.product(("light", "dark"), (360, 1280)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        assert overflow(page) == 0, f"{width} pixels"
        contrasts = page.evaluate(VISIBLE_TEXT_CONTRASTS)
        faint = [(words, round(ratio, 2)) for words, ratio in contrasts if ratio < LEAST_CONTRAST]
        assert faint == [], f"{scheme}, {width} pixels"


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_it_loads_itself_and_nothing_else_without_a_complaint(page, path):
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri(), wait_until="networkidle")
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    assert complaints == []


def test_its_policy_stops_whatever_would_load_or_run(page, reports):
    failures = []
    page.goto(reports["completed"].as_uri())
    page.on("requestfailed", lambda request: failures.append(request.failure))
    stopped = page.evaluate(
        """async () => {
          const stopped = [];
          document.addEventListener("securitypolicyviolation", event => stopped.push(event.effectiveDirective));
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          const picture = document.createElement("img");
          picture.src = "http://127.0.0.1:9/picture.png";
          const style = document.createElement("link");
          Object.assign(style, {rel: "stylesheet", href: "http://127.0.0.1:9/style.css"});
          document.body.append(script, picture, style);
          while (stopped.length < 3) await new Promise(resolve => setTimeout(resolve, 20));
          return [stopped.sort(), window.ran === undefined];
        }"""
    )
    assert stopped == [["img-src", "script-src-elem", "style-src-elem"], True]
    assert set(failures) == {"csp"}


def test_it_has_one_title_its_parts_and_headings_in_order(page, path):
    page.goto(path.as_uri())
    levels = page.eval_on_selector_all(
        "h1, h2, h3, h4, h5, h6", "all => all.map(one => Number(one.tagName[1]))"
    )
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for landmark in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    assert page.title().startswith(report_runs.RUN_ID)
    assert page.get_attribute("html", "lang") == "en"


def test_every_picture_is_drawn_and_described(page, reports):
    page.goto(reports["completed"].as_uri())
    pictures = page.eval_on_selector_all("img", "all => all.map(one => [one.naturalWidth, one.alt])")
    assert len(pictures) == sum(map(len, report_runs.FIGURES.values()))
    assert all(width > 0 and alt.strip() for width, alt in pictures)


def test_nothing_is_wider_than_the_window(page, path):
    page.goto(path.as_uri())
    for folded in (True, False):
        if not folded:
            page.evaluate(UNFOLD)
        for width in (320, 360, 600, 800, 1280, 1920):
            page.set_viewport_size({"width": width, "height": 800})
            assert overflow(page) == 0, f"{width} pixels"


def test_long_words_and_numbers_are_broken_on_a_phone(page, tmp_path):
    run = report_runs.record({"03_train": "failed"}, "failed")
    run.run_id = "a" * 30
    run.stage("00_collect").title = "0" * 150
    run.stage("00_collect").scraps = {
        "u" * 90: "s3://" + "b" * 300,
        "numbers": {"n" * 60: 1.5, "m": "v" * 200},
    }
    run.stage("03_train").error = report_runs.FAILURE
    run.parameters = {
        "p" * 90: "v" * 300,
        "account": {"role_arn": "arn:aws:iam::123456789012:role/" + "r" * 90},
    }
    run.parameters_file = "parameters/" + "f" * 150
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto(report.write(report_runs.save(tmp_path, run)).as_uri())
    page.evaluate(UNFOLD)
    assert overflow(page) == 0


def test_every_text_stands_out_from_its_ground(page, path):
    page.goto(path.as_uri())
    page.evaluate(UNFOLD)
    for scheme, width in itertools.product(("light", "dark"), (360, 1280)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        contrasts = page.evaluate(VISIBLE_TEXT_CONTRASTS)
        assert len(contrasts) > 100
        faint = [(words, round(ratio, 2)) for words, ratio in contrasts if ratio < LEAST_CONTRAST]
        assert faint == [], f"{scheme}, {width} pixels"


def test_dark_is_dark_and_light_is_light(page, reports):
    page.goto(reports["completed"].as_uri())
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(int(part) for part in colour.strip("rgb()").split(",")))
    assert grounds[0] > 3 * 230
    assert grounds[1] < 3 * 40


def test_the_keyboard_reaches_the_content_and_opens_the_details(page, reports):
    page.goto(reports["failed"].as_uri())
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "All parameters":
            break
    parameters = page.get_by_role("columnheader", name="Parameter")
    expect(parameters).to_be_hidden()
    page.keyboard.press("Enter")
    expect(parameters).to_be_visible()
    page.keyboard.press("Enter")
    expect(parameters).to_be_hidden()


def test_what_scrolls_can_be_scrolled_by_keyboard(page, reports):
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto(reports["failed"].as_uri())
    page.evaluate(UNFOLD)
    unreachable = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
          .filter(one => one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 1)
          .filter(one => ["auto", "scroll"].includes(getComputedStyle(one).overflowX) && one.tabIndex < 0)
          .map(one => one.outerHTML.slice(0, 80))"""
    )
    assert unreachable == []


def test_the_graph_suits_the_window_and_its_words_fit_its_boxes(page, path):
    page.goto(path.as_uri())
    for width, shown, hidden in ((1280, "wide", "tall"), (360, "tall", "wide")):
        page.set_viewport_size({"width": width, "height": 800})
        expect(page.locator(f"svg.{shown}")).to_be_visible()
        expect(page.locator(f"svg.{hidden}")).to_be_hidden()
        boxes = page.eval_on_selector_all(f"svg.{shown} .box", MARGINS_OF_WORDS)
        assert len(boxes) == len(report_runs.TITLES)
        assert all(margin >= 0 for texts in boxes for margins in texts for margin in margins)


def test_a_state_is_a_word_and_a_shape_as_well_as_a_colour(page, path):
    page.goto(path.as_uri())
    states = page.eval_on_selector_all(
        "span.state, svg.wide .box",
        """all => all.map(one => [one.classList[1] ?? one.classList[0], one.textContent.trim(),
                                one.querySelector("use").getAttribute("href"),
                                getComputedStyle(one).color])""",
    )
    assert len(states) == 1 + 3 * len(report_runs.TITLES)
    assert all(words.endswith(state) and shape == f"#mark-{state}" for state, words, shape, _ in states)
    shapes = {state: page.inner_html(shape) for state, _, shape, _ in states}
    assert len(set(shapes.values())) == len(shapes)


def test_a_box_of_the_graph_leads_to_its_stage(page, reports):
    page.goto(reports["failed"].as_uri())
    page.get_by_role("link", name="03_train: failed; takes values from 02_prepare").click()
    expect(page.locator("section:target h3")).to_have_text("03 Train the Factorization Machine")
    expect(page.locator("section:target")).to_be_in_viewport()


def test_the_failure_is_on_the_first_screen(page, reports):
    page.goto(reports["failed"].as_uri())
    expect(page.get_by_role("heading", level=2).first).to_have_text(
        "03 Train the Factorization Machine failed in cell 7"
    )
    for words in ("is larger than the 26,101 rows", "Next step", "job = jobs.train("):
        expect(page.get_by_text(words).first).to_be_in_viewport()


def test_the_result_and_the_graph_are_on_the_first_screen(page, reports):
    page.goto(reports["completed"].as_uri())
    expect(page.get_by_text("Accepted", exact=True)).to_be_in_viewport()
    expect(page.locator("svg.wide")).to_be_in_viewport(ratio=0.6)


def test_on_paper_everything_is_unfolded_and_fits(page, path):
    page.goto(path.as_uri())
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 703, "height": 1000})  # A4 without its margins
    assert overflow(page) == 0
    expect(page.locator("svg.wide")).to_be_visible()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_hidden()
    heights = page.eval_on_selector_all(
        ".record table", "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert heights
    assert all(height > 20 for height in heights)
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_the_picture_of_the_first_screen_is_small(reports, tmp_path):
    target = tmp_path / "docs" / "report.png"
    program = Path(chromium.__file__).with_name("picture.py")
    command = [sys.executable, str(program), str(reports["completed"]), str(target)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    data = target.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (1280, 800)
    assert 10_000 < len(data) < 200_000
    assert f"{len(data):,} bytes" in said.stdout


def test_without_a_browser_one_sentence_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(chromium.VARIABLE, raising=False)
    with pytest.raises(chromium.NoBrowser, match=r"install it with `apt-get install chromium`"):
        chromium.executable()
    monkeypatch.setenv(chromium.VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(chromium.NoBrowser, match="which is no file"):
        chromium.executable()

"""The page in a browser: sorting, filters, neighbourhoods, the graph, and that nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile
import onnx
import pytest
from browser import Visit, chromium
from command_line import SAMPLES, bnfold
from onnx_nets import Net

from bnfold.reporting.page.render import page
from bnfold.reporting.page.sheet import Sheet

pytestmark = [pytest.mark.browser, pytest.mark.slow]
CNN, REPVGG, POST = (SAMPLES / f"digits_{name}.onnx" for name in ("cnn", "repvgg", "cnn_post"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    net = Net()
    x = net.act("softmax", net.conv("conv", net.start(), 3, 8), "Softmax", axis=1)
    x = net.conv("padded", net.norm("stays", x, 8), 8, 8, pads=[1, 1, 1, 1])
    onnx.save(net.build(net.norm("goes", x, 8)), folder / "stays.onnx")
    onnx.save(hostile.model(), folder / "strange.onnx")
    net = Net()
    x = net.start()
    for number in range(1_700):
        x = net.act(f"act{number}", x, ("Relu", "Tanh", "Exp", "Neg", "Abs")[number * number * 7 % 11 % 5])
    onnx.save(net.build(x), folder / "large.onnx")
    for name in ("stays", "strange", "large"):
        assert (
            bnfold("analyze", folder / f"{name}.onnx", "--report", folder / f"{name}.html", "--fail-on", "never").code
            == 0
        )
    assert bnfold("fold", REPVGG, "-o", folder / "repvgg.onnx", "--report", folder / "fold.html").code == 0
    assert bnfold("verify", REPVGG, folder / "repvgg.onnx", "--report", folder / "verify.html").code == 0
    assert bnfold("analyze", CNN, POST, folder / "no.onnx", "--report", folder / "several.html").code == 2
    return folder


@pytest.fixture
def visit(browser: Any, pages: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Opens pages by name; in the end none may have complained or loaded anything."""
    visits: list[Visit] = []

    def open_page(name: str, **settings: Any) -> Visit:
        visits.append(Visit(browser, pages / f"{name}.html", **settings))
        return visits[-1]

    yield open_page
    for one in visits:
        one.check()
        one.page.close()


def names(visit: Visit) -> list[str]:
    """The BN that the table shows, in order."""
    rows = visit.page.locator("table.bns tbody tr[data-bn]:visible .name")
    return [text.strip() for text in rows.all_text_contents()]


def field(visit: Visit, name: str) -> Any:
    return visit.page.locator("form.filters").get_by_label(name)


class TestTable:
    def test_sorting(self, visit: Any) -> None:
        page = visit("fold")
        before = names(page)
        assert len(before) == 10
        head = page.page.get_by_role("button", name="channels")
        channels = page.page.locator("table.bns tbody tr[data-bn] td.number")
        head.click()
        assert channels.all_text_contents() == ["16"] * 5 + ["32"] * 5
        head.click()
        assert channels.all_text_contents() == ["32"] * 5 + ["16"] * 5
        assert page.page.locator("th[aria-sort=descending]").count() == 1
        head.click()
        assert names(page) == before

    def test_filters_stand_in_the_url(self, visit: Any) -> None:
        page = visit("stays")
        assert names(page) == ["stays", "goes"]
        field(page, "Folding").select_option("stays")
        assert names(page) == ["stays"]
        assert "m0.fold=stays" in page.page.url
        fragment = page.page.url.partition("#")[2]
        page.open("#" + fragment)
        assert names(page) == ["stays"]
        assert field(page, "Folding").input_value() == "stays"
        field(page, "Folding").select_option("")
        assert names(page) == ["stays", "goes"]
        assert "#" not in page.page.url

    def test_each_filter(self, visit: Any) -> None:
        page = visit("stays")
        field(page, "Name").fill("GOE")
        assert names(page) == ["goes"]
        field(page, "Name").fill("")
        field(page, "Placement").select_option("before output")
        assert names(page) == ["goes"]
        assert page.page.locator("form.filters output").text_content() == "1 of 2 BN"
        field(page, "Placement").select_option("")
        field(page, "Finding").select_option("BN402")
        assert names(page) == ["stays"]

    def test_neighbourhood_of_what_folds(self, visit: Any) -> None:
        page = visit("stays")
        opener = page.page.locator("button.open", has_text="goes")
        opener.click()
        page.page.wait_for_selector(".near .pane[data-ready=yes] >> nth=1")
        before, after = page.page.locator(".near .pane").all()
        kinds = before.locator(".node .type").all_text_contents()
        assert kinds == ["BatchNormalization", "Conv", "BatchNormalization", "output"]
        assert before.locator(".node[data-state=folded] .label").all_text_contents() == ["goes"]
        assert before.locator(".node[data-state='took it in'] .label").all_text_contents() == ["padded"]
        assert after.locator(".node[data-state='took it in'] .label").all_text_contents() == ["padded"]
        opener.click()
        assert page.page.locator(".near").count() == 0

    def test_neighbourhood_of_what_stays(self, visit: Any) -> None:
        page = visit("stays")
        page.page.locator("button.open", has_text="stays").press("Enter")
        page.page.wait_for_selector(".near .pane[data-ready=yes] >> nth=1")
        before = page.page.locator(".near .pane").first
        assert sorted(before.locator(".node[data-refuses] .label").all_text_contents()) == ["padded", "softmax"]
        assert before.locator(".node[data-state=stays] .label").all_text_contents() == ["stays"]
        assert before.locator(".node[data-finding]").count() >= 1


class TestGraph:
    def test_search_opens_boxes_and_selects_on_both_sides(self, visit: Any) -> None:
        page = visit("fold")
        page.drawn()
        page.page.get_by_role("button", name="Close all").click()
        page.until("document.querySelectorAll('.graph .node[data-group]').length > 0")
        page.page.get_by_label("Search the graph").fill("/2/branches.1/branches.1.1/")
        page.page.get_by_label("Search the graph").press("Enter")
        page.until("document.querySelectorAll('.graph .node[data-selected]').length === 2")
        types = page.page.locator(".graph .node[data-selected] .type").all_text_contents()
        assert types == ["BatchNormalization", "Conv"]
        assert "/2/branches.1/branches.1.1/BatchNormalization" in page.page.locator(".about").text_content()

    def test_a_choice_after_shows_what_it_was(self, visit: Any) -> None:
        page = visit("stays")
        page.drawn()
        after = page.page.locator(".graph .pane").nth(1)
        after.locator(".node[data-state='took it in']").first.press("Enter")
        page.until("document.querySelectorAll('.graph .pane:first-child .node[data-selected]').length === 2")
        chosen = page.page.locator(".graph .pane").first.locator(".node[data-selected] .label").all_text_contents()
        assert sorted(chosen) == ["goes", "padded"]

    def test_zoom_and_pan(self, visit: Any) -> None:
        page = visit("stays")
        page.drawn()
        stage = page.page.locator(".graph .pane svg > g").first
        start = stage.get_attribute("transform")
        page.page.get_by_role("button", name="+", exact=True).click()
        zoomed = stage.get_attribute("transform")
        assert float(zoomed.split("scale(")[1][:-1]) > float(start.split("scale(")[1][:-1])
        page.page.locator(".graph .pane svg").first.focus()
        page.page.keyboard.press("ArrowLeft")
        panned = stage.get_attribute("transform")
        assert panned != zoomed
        page.page.keyboard.press("0")
        assert stage.get_attribute("transform") not in (zoomed, panned)
        box = page.page.locator(".graph .pane svg").first.bounding_box()
        at = stage.get_attribute("transform")
        page.page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.page.mouse.down()
        page.page.mouse.move(box["x"] + 80, box["y"] + 60)
        page.page.mouse.up()
        assert stage.get_attribute("transform") != at

    def test_keys_open_and_close_a_box(self, visit: Any) -> None:
        """The focus stays with the box, whether it is open or closed."""
        page = visit("fold")
        page.drawn()
        page.page.get_by_role("button", name="Close all").click()
        page.until("document.querySelectorAll('.graph .node[data-group]').length > 0")
        pane = page.page.locator(".graph .pane").first
        group = pane.locator(".node[data-group]").first.get_attribute("data-group")
        pane.locator(f".node[data-group='{group}']").press("Enter")
        page.until(f"document.activeElement.parentNode.dataset.box === '{group}'")
        page.page.keyboard.press("Enter")
        page.until(f"document.activeElement.dataset.group === '{group}'")

    def test_a_large_graph_is_drawn_on_demand(self, visit: Any) -> None:
        page = visit("large")
        page.page.locator(".graph").scroll_into_view_if_needed()
        page.page.wait_for_selector(".graph .pane[data-ready] >> nth=1")
        page.until("document.querySelector('.graph .pane').dataset.ready !== ''")
        page.page.get_by_role("button", name="Open all").click()
        page.page.wait_for_selector(".graph .pane[data-ready=asks] >> nth=1")
        assert page.page.get_by_role("button", name="Draw 1,702 operators").count() == 2
        assert page.page.locator(".graph .node").count() < 1_500


class TestTenThousandOperators:
    """What may be drawn does not grow with the graph, and the page answers while the worker lays out."""

    DRAWN = 400

    @pytest.fixture(scope="class")
    def large(self, pages: Path) -> str:
        nodes = [
            [f"op{at}", 0, "Relu", "operator", ("", "folded", "stays")[at % 3], at // 100, "", [], "", []]
            for at in range(10_000)
        ]
        edges = [[at, at + step] for at in range(9_990) for step in (1, 7)]
        graph = {"nodes": nodes, "edges": edges, "groups": [[f"part {at}", None] for at in range(100)]}
        data = {"before": graph, "after": graph, "links": {}, "bns": [], "names": [], "profiles": []}
        (pages / "ten.html").write_bytes(page("analyze", [Sheet("ten", (), data=data)], {}))
        return "ten"

    @pytest.fixture
    def opened(self, visit: Any, large: str) -> Visit:
        found: Visit = visit(large)
        found.drawn()
        found.page.get_by_role("button", name="Open all").click()
        found.page.get_by_role("button", name="Draw 10,000 operators").first.click()
        found.until("document.querySelector('.graph .pane').dataset.ready === 'yes'")
        return found

    def count(self, visit: Visit) -> int:
        """The operators that are elements, once the picture has followed the last movement."""
        visit.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return int(visit.page.locator(".graph .pane").first.locator(".node").count())

    def painted(self, visit: Visit) -> bool:
        """Whether there is anything on the canvas, where it is shown."""
        return bool(
            visit.page.evaluate(
                "(() => { const one = document.querySelector('.graph canvas'); return !one.hidden && "
                "one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some((byte) => byte); })()"
            )
        )

    def test_few_are_elements_from_near_and_none_from_afar(self, opened: Visit) -> None:
        assert 0 < self.count(opened) <= self.DRAWN
        assert not self.painted(opened)
        opened.page.get_by_role("button", name="Show all").click()
        assert self.count(opened) == 0
        assert self.painted(opened)
        counts = []
        for _ in range(30):
            opened.page.get_by_role("button", name="+", exact=True).click()
            counts.append(self.count(opened))
        assert max(counts) <= self.DRAWN
        assert counts[-1] > 0
        assert not self.painted(opened)

    def test_moving_draws_what_comes_into_view(self, opened: Visit) -> None:
        before = opened.page.locator(".graph .pane").first.locator(".node .label").all_text_contents()
        opened.page.locator(".graph .pane svg").first.focus()
        for _ in range(20):
            opened.page.keyboard.press("ArrowDown")
        assert 0 < self.count(opened) <= self.DRAWN
        assert opened.page.locator(".graph .pane").first.locator(".node .label").all_text_contents() != before

    def test_search_and_a_click_from_afar(self, opened: Visit) -> None:
        opened.page.get_by_label("Search the graph").fill("op9999")
        opened.page.get_by_label("Search the graph").press("Enter")
        chosen = ".graph .pane:first-child .node[data-selected] .label"
        opened.until(f"document.querySelector({chosen!r})?.textContent === 'op9999'")
        opened.page.get_by_role("button", name="Show all").click()
        assert self.count(opened) == 0
        box = opened.page.locator(".graph .pane svg").first.bounding_box()
        opened.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        opened.until("!document.querySelector('.about').textContent.startsWith('op9999 ')")
        assert opened.page.locator(".about").text_content().startswith("op")

    def test_the_page_answers_while_the_worker_lays_out(self, visit: Any, large: str) -> None:
        found = visit(large)
        found.drawn()
        found.page.evaluate(
            "() => { const send = Worker.prototype.postMessage; window.held = []; "
            "Worker.prototype.postMessage = function (task) { held.push(() => send.call(this, task)); }; }"
        )
        pane = found.page.locator(".graph .pane").first
        stage = pane.locator("svg > g").first
        at = stage.get_attribute("transform")
        found.page.get_by_role("button", name="Open all").click()
        found.page.get_by_role("button", name="Draw 10,000 operators").first.click()
        assert pane.get_attribute("data-ready") == ""
        assert pane.locator(".status").text_content() == "drawing…"
        found.page.get_by_role("button", name="+", exact=True).click()
        assert stage.get_attribute("transform") != at
        found.page.get_by_label("Search the graph").fill("op123")
        assert found.page.locator(".matches button").count() == 11
        found.page.evaluate("held.forEach((send) => send())")
        found.until("document.querySelector('.graph .pane').dataset.ready === 'yes'")
        assert 0 < self.count(found) <= self.DRAWN

    def test_paper_gets_all_of_it(self, opened: Visit) -> None:
        opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        frame = opened.page.locator(".graph .pane svg").first
        assert frame.get_attribute("viewBox") is not None
        assert self.painted(opened)
        opened.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert frame.get_attribute("viewBox") is None
        assert 0 < self.count(opened) <= self.DRAWN


class TestLooks:
    def test_dark_and_light(self, visit: Any) -> None:
        page = visit("stays", color_scheme="dark")
        colour = "getComputedStyle(document.body).backgroundColor"
        dark = page.page.evaluate(colour)
        page.page.get_by_role("button", name="Light").click()
        light = page.page.evaluate(colour)
        assert (dark, light) == ("rgb(20, 23, 27)", "rgb(255, 255, 255)")
        assert visit("stays", color_scheme="light").page.evaluate(colour) == light

    def test_print_is_light_and_has_no_controls(self, visit: Any) -> None:
        page = visit("stays", color_scheme="dark")
        page.page.emulate_media(media="print")
        assert page.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.page.locator("form.filters").is_visible()
        assert page.page.locator("table.bns").is_visible()

    @pytest.mark.parametrize("name", ["stays", "fold", "several", "verify", "strange"])
    def test_a_phone_need_not_scroll_sideways(self, visit: Any, name: str) -> None:
        page = visit(name, viewport={"width": 390, "height": 844})
        assert page.page.evaluate("document.documentElement.scrollWidth") <= 390

    def test_plots(self, visit: Any) -> None:
        page = visit("fold")
        page.page.locator(".plot-area").scroll_into_view_if_needed()
        page.page.wait_for_selector(".plot-area figure")
        assert page.page.locator(".plot-area figure").count() == 3
        assert page.page.locator(".plot-area .bar").count() > 20
        assert visit("verify").page.locator(".outputs-plot circle").count() >= 1

    def test_a_finding_leads_to_its_rule(self, visit: Any) -> None:
        page = visit("stays")
        page.page.locator(".findings a.code", has_text="BN402").first.click()
        assert page.page.locator("#rule-BN402").get_attribute("open") is not None
        assert page.page.locator("#rule-BN402 h4").all_text_contents()[:2] == ["What it finds", "Why it matters"]

    def test_several_models_and_one_that_is_none(self, visit: Any) -> None:
        page = visit("several")
        links = page.page.locator("[aria-labelledby=overview] tbody tr")
        assert links.count() == 3
        assert "cannot be read" in links.nth(2).text_content()
        assert page.page.locator(".graph").count() == 2


def test_strange_names_are_text(visit: Any) -> None:
    page = visit("strange")
    page.drawn()
    shown = names(page)
    assert hostile.SCRIPT in shown
    assert hostile.EMOJI in shown
    assert "\\u202e" in next(name for name in shown if "שכבה" in name)
    assert page.page.locator("img").count() == 0
    assert page.page.title().startswith("bnfold analyze")
    for number in range(len(hostile.NAMES)):
        page.page.locator("button.open").nth(number).click()
    page.page.wait_for_selector(f".near .pane[data-ready=yes] >> nth={2 * len(hostile.NAMES) - 1}")
    page.page.get_by_label("Search the graph").fill("</script>")
    page.page.get_by_label("Search the graph").press("Enter")
    page.until("document.querySelectorAll('.graph .node[data-selected]').length > 0")
    assert page.page.locator("img").count() == 0
    assert page.page.evaluate("document.title") != "broken"


@pytest.mark.parametrize("kind", ["fold", "fix", "verify", "equalize"])
def test_strange_names_are_text_in_every_kind_of_page(visit: Any, pages: Path, kind: str) -> None:
    model = hostile.model()
    old, new = model.graph.output[0].name, hostile.SCRIPT
    model.graph.output[0].name = new
    for node in model.graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
    source, result = pages / f"{new[-9:-1]} <b>.onnx", pages / f"{kind}.onnx"
    onnx.save(model, source)
    target = [source] if kind == "verify" else ["-o", result]
    assert bnfold(kind, source, *target, "--report", pages / f"{kind}_strange.html").code == 0
    page = visit(f"{kind}_strange")
    if kind != "verify":
        page.drawn()
        page.page.get_by_role("button", name="Open all").click()
        page.until("document.querySelector('.graph .pane').dataset.ready === 'yes'")
        page.page.get_by_role("button", name="Show all").click()
    page.page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    assert page.page.locator("img").count() == 0
    assert page.page.locator("main b", has_text="bold").count() == 0
    assert page.page.title().startswith(f"bnfold {kind}")
    if kind in ("fold", "fix", "verify"):
        assert hostile.SCRIPT in page.page.locator("main").text_content()

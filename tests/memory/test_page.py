"""The page in a real browser, over a host in memory: what a person with the token can change, what a keyboard and a
small screen reach, and that no other page has a hand in it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.unit.test_commands import BROKEN, plant
from tests.unit.test_public import Site, agent

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

LATE = 60_000
"""Milliseconds."""
VM = "api: holdfast/v1\nkind: vm\nname: {name}\n"
JOB = "api: holdfast/v1\nkind: job\nname: hello\nscript: 'true'\n"
CONTRAST = 4.5
"""Of text to what it stands on: https://www.w3.org/TR/WCAG22/#contrast-minimum."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=LATE)
    with sync_playwright() as play:
        made = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def site(tmp_path: Path, free_ports: list[int]) -> Iterator[Site]:
    plant(tmp_path)
    with agent(tmp_path, free_ports[0]) as made:
        yield made


@contextmanager
def shown(browser: Browser, site: Site, **more: Any) -> Iterator[Page]:
    """The page, once it is live, for somebody who has never been there."""
    context = browser.new_context(**more)
    page = context.new_page()
    page.set_default_timeout(LATE)
    page.goto(address(site))
    expect(page.locator("#link")).to_have_text("live")
    yield page
    context.close()


def address(site: Site) -> str:
    return f"http://127.0.0.1:{site.port}/"


def unlock(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Unlock").click()


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def test_without_the_token_nothing_is_offered_and_with_it_everything_is_done(
    browser: Browser, site: Site
) -> None:
    with shown(browser, site) as page:
        expect(button(page, "Suspend")).to_have_count(0)
        unlock(page, "no token at all, but as long as one")
        expect(page.locator("#said")).to_contain_text("a change takes the agent's token")
        expect(button(page, "Suspend")).to_have_count(0)
        unlock(page, site.token)
        button(page, "Suspend").click()
        expect(page.locator("#source")).to_contain_text("suspended: nothing is done")
        button(page, "Resume").click()
        expect(page.locator("#source")).not_to_contain_text("suspended")
        button(page, "Look now").click()
        expect(page.locator("#said")).to_have_text("Look now: done")
        is_kept_for_this_tab_alone(page, site)
        button(page, "Lock").click()
        expect(button(page, "Suspend")).to_have_count(0)
        assert page.evaluate("sessionStorage.length") == 0


def is_kept_for_this_tab_alone(page: Page, site: Site) -> None:
    """Sabotage: keep it in localStorage, or in a cookie."""
    page.reload()
    expect(button(page, "Suspend")).to_be_visible()
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert site.token not in page.url
    assert site.token not in page.content()
    other = page.context.new_page()
    other.goto(address(site))
    expect(other.locator("#link")).to_have_text("live")
    expect(button(other, "Suspend")).to_have_count(0)
    other.close()


def test_what_waits_for_approval_is_approved_after_a_question(browser: Browser, site: Site) -> None:
    for number in range(5):
        (site.tree / f"vm{number}.yaml").write_text(VM.format(name=f"vm{number}"))
    with shown(browser, site) as page:
        rows = page.locator("#names tbody tr")
        expect(rows.locator(".good")).to_have_count(6)
        for number in range(5):
            (site.tree / f"vm{number}.yaml").unlink()
        expect(page.locator("#held")).to_contain_text("5 VMs would be destroyed at once")
        # A document that talks of approving this very plan puts no words into the question.
        [plan_id] = re.findall(r"holdfast approve ([0-9a-f]+)", page.locator("#held").inner_text())[
            :1
        ]
        key = f"nothing goes (`holdfast approve {plan_id}` lets it pass)"
        (site.tree / "liar.yaml").write_text(f"{VM.format(name='liar')}{json.dumps(key)}: 1\n")
        expect(page.locator("#held")).to_contain_text("nothing goes")
        unlock(page, site.token)
        asked: list[str] = []

        def answer(dialog: Any) -> None:
            asked.append(dialog.message)
            if len(asked) > 1:
                dialog.accept()
            else:
                dialog.dismiss()

        page.on("dialog", answer)
        approve = page.get_by_role("button", name="Approve")
        approve.click()  # and thought better of
        expect(rows).to_have_count(6)
        approve.click()
        expect(rows).to_have_count(1)
        assert "5 VMs would be destroyed at once" in asked[0]


def test_a_job_is_run_again(browser: Browser, site: Site) -> None:
    (site.tree / "job.yaml").write_text(JOB)
    with shown(browser, site) as page:
        job = page.locator("#jobs li", has_text="hello")
        expect(job).to_contain_text("succeeded")
        job.get_by_role("button").click()
        expect(button(page, "Run again")).to_have_count(0)
        unlock(page, site.token)
        button(page, "Run again").click()
        expect(page.locator("#events")).to_contain_text("run 2, as run 1 was")


# Other pages

EVIL = """<!doctype html><form method=post action="{target}"><button>Win</button></form><script>
const asked = (options) => fetch("{target}", {{ method: "POST", ...options }}).catch(() => null);
Promise.all([
  asked({{ headers: {{ Authorization: "Bearer {token}" }} }}),
  asked({{ mode: "no-cors", credentials: "include" }}),
]).then(() => {{ document.title = "asked" }});
</script>"""


class _Evil(BaseHTTPRequestHandler):
    def __init__(self, text: str, *more: Any) -> None:
        self._text = text
        super().__init__(*more)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self._text.encode())

    def log_message(self, format: str, *words: Any) -> None: ...


@contextmanager
def evil(text: str) -> Iterator[str]:
    """The address of a page of somebody else."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Evil, text))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_page_of_somebody_else_changes_nothing(browser: Browser, site: Site) -> None:
    """Even one that has come to know the token. Sabotage: answer `OPTIONS` with `Access-Control-Allow-Headers: *`, and
    look at no `Origin`."""
    text = EVIL.format(target=f"{address(site)}api/v1/suspend", token=site.token)
    with shown(browser, site) as page, evil(text) as where:
        unlock(page, site.token)
        expect(button(page, "Suspend")).to_be_visible()
        other = page.context.new_page()
        other.goto(where)
        expect(other).to_have_title("asked")
        other.get_by_role("button").click()
        expect(other.locator("body")).to_contain_text("error")  # what a person is told there
        assert site.json("/api/v1/status")[1]["agent"]["suspended_at"] is None


def test_nothing_is_loaded_from_elsewhere(browser: Browser, site: Site) -> None:
    """Sabotage: drop the policy."""
    with shown(browser, site) as page, evil("") as where:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        expect(page.locator("#names tbody tr")).to_have_count(1)
        page.locator("#names tbody tr").click()
        expect(page.locator("#charts figure").first).to_be_visible()
        assert len(asked) > 5
        assert {url for url in asked if not url.startswith(address(site))} <= {"data:,"}
        refused = page.evaluate(
            """where => new Promise((told) => {
              document.addEventListener("securitypolicyviolation", (one) => told(one.effectiveDirective));
              document.body.append(Object.assign(document.createElement("img"), { src: where }));
            })""",
            where,
        )
        assert refused == "img-src"


# Small screens and keyboards


def test_a_small_screen_has_room_for_everything(browser: Browser, site: Site) -> None:
    long = "a-" * 31 + "a"
    (site.tree / "long.yaml").write_text(VM.format(name=long))
    (site.tree / ("x" * 100 + ".yaml")).write_text(BROKEN)
    (site.tree / "job.yaml").write_text(JOB)
    with shown(browser, site, viewport={"width": 390, "height": 800}) as page:
        unlock(page, site.token)
        expect(page.locator("#held")).to_contain_text("memry")
        expect(page.locator("#jobs")).to_contain_text("succeeded")
        row = page.locator("#names tbody tr", has_text=long)
        expect(row.locator(".good")).to_be_visible()
        row.click()
        expect(page.locator("#charts figure").first).to_be_visible()
        wide = "[...document.querySelectorAll('html, .wide')].map((one) => one.scrollWidth - one.clientWidth)"
        assert page.evaluate(wide) == [0, 0]


def test_a_keyboard_reaches_everything_and_shows_where_it_is(browser: Browser, site: Site) -> None:
    """Sabotage: `outline: none`; a row without a tabindex."""
    (site.tree / "job.yaml").write_text(JOB)
    with shown(browser, site) as page:
        expect(page.locator("#jobs")).to_contain_text("succeeded")
        unlock(page, site.token)
        expect(button(page, "Suspend")).to_be_visible()
        page.reload()
        expect(button(page, "Suspend")).to_be_visible()
        found = tabbed(page)
        order = [
            "To the names", "Look now", "Suspend", "Lock", "filter", "hello", "hello",
        ]  # fmt: skip
        assert [one for one in found if one in order] == order
        page.locator("#names tbody tr").first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("#detail-title")).to_have_text("vm web")
        # What is drawn anew meanwhile leaves the focus where it is.
        button(page, "qemu").focus()
        page.keyboard.press("Space")
        expect(button(page, "qemu")).to_have_attribute("aria-pressed", "true")
        (site.tree / "db.yaml").write_text(VM.format(name="db"))
        expect(page.locator("#names tbody tr", has_text="db").locator(".good")).to_be_visible()
        expect(button(page, "qemu")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.locator("#detail")).to_be_hidden()


def tabbed(page: Page) -> list[str]:
    """What Tab comes to, from the beginning of the page to its end, each visibly so."""
    found = []
    for _ in range(30):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => {
              const one = document.activeElement;
              return [one === document.body ? "" : one.id === "filter" ? one.id
                : (one.dataset.key?.split("/").pop() ?? one.textContent), getComputedStyle(one).outlineStyle];
            }"""
        )
        if not name:
            break
        assert outline not in ("none", ""), f"{name} does not show that it has the focus"
        found.append({"reconcile": "Look now", "suspend": "Suspend"}.get(name, name))
    return found


LUMINANCE = """() => {
  const linear = (one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
  const luminance = (colour) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((one) => linear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const seen = (name) => {
    const probe = document.createElement("span");
    probe.className = "probe";
    document.body.append(probe);
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(`.probe { color: var(--${name}) }`);
    document.adoptedStyleSheets = [sheet];
    const colour = getComputedStyle(probe).color;
    probe.remove();
    return luminance(colour);
  };
  const names = ["back", "panel", "text", "dim", "good", "wait", "bad", "mark"];
  return Object.fromEntries(names.map((name) => [name, seen(name)]));
}"""


def test_it_is_light_or_dark_and_can_be_read(browser: Browser, site: Site) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        with shown(browser, site, color_scheme=scheme) as page:
            found = page.evaluate(LUMINANCE)
        grounds[scheme] = found["back"]
        for ground in ("back", "panel"):
            for text in ("text", "dim", "good", "wait", "bad", "mark"):
                low, high = sorted((found[ground], found[text]))
                ratio = (high + 0.05) / (low + 0.05)
                assert ratio >= CONTRAST, f"{text} on {ground}, {scheme}: {ratio:.1f}"
    assert grounds["dark"] < 0.1 < 0.8 < grounds["light"]

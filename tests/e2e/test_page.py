"""The page in a real browser, over real VMs: what becomes of a document is seen as it happens, and no guest can do more
on the page than be read.

Screenshots lie in `.cache/screenshots` afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.site import ROOT, Site

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.browser, pytest.mark.timeout(400)]

SHOTS = ROOT / ".cache" / "screenshots"
LATE = 60_000
"""Milliseconds for whatever takes a guest's boot."""
HOSTILE = (
    '<script>window.taken = 1</script><img src="/x" onerror="window.taken = 1">',
    "</pre><style>body { display: none }</style>",
    "\\033[2J\\033]0;taken\\007red \\033[31malert\\033[0m",
    "\\342\\200\\256txt.exe",
)
"""As printf(1) takes it: markup, and what acts on terminals."""
JOB = """\
api: holdfast/v1
kind: job
name: hello
script: |
  #!/bin/sh
{prints}
  n=0
  while [ $n -lt 400 ]; do n=$((n+1)); echo "line $n"; done
  sleep 3
  echo the last line
  exit 7
"""


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        # As root in a container it has no sandbox of its own; the page that it shows is ours.
        made = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield made
        made.close()


@contextmanager
def page_of(place: Browser, port: int, scheme: str, width: int) -> Iterator[Page]:
    """The page for somebody with such a screen, which nothing may have complained on when the block ends."""
    context = place.new_context(
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": width, "height": 900},
    )
    page, complaints = context.new_page(), []
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_default_timeout(LATE)
    page.goto(f"http://127.0.0.1:{port}/")
    yield page
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{scheme}-{width}.png", full_page=True)
    context.close()
    assert complaints == []


def test_a_person_sees_what_happens(tiny: Site, free_ports: list[int]) -> None:
    expect.set_options(timeout=LATE)
    port = free_ports[0]
    listen = ("--listen", f"127.0.0.1:{port}", "--metrics-interval", "1")
    with tiny.agent(*listen), browser() as made:
        tiny.until(lambda: '"Started"' in tiny.log(), "the agent listens")
        with page_of(made, port, "light", 1280) as page:
            expect(page.locator("#none")).to_be_visible()
            tiny.vm("web")
            web = page.locator("#names tbody tr", has_text="web")
            expect(web).to_be_visible()
            expect(web.locator(".good")).to_have_text("running")
            tiny.write("broken.yaml", "api: holdfast/v1\nkind: vm\nname: db\nmemry: 1GiB\n")
            expect(page.locator("#held")).to_contain_text("broken.yaml:4:1")
            web.click()
            expect(page.locator("#detail-title")).to_have_text("vm web")
            expect(page.locator("#log")).to_contain_text("tiny")
            expect(page.locator("#charts figure").first).to_be_visible()
            is_used_by_keyboard(page)
            page.keyboard.press("Escape")
            shows_a_job(tiny, page)
        for scheme, width in (("dark", 1280), ("dark", 390)):
            with page_of(made, port, scheme, width) as page:
                page.locator("#names tbody tr", has_text="web").click()
                expect(page.locator("#charts figure").first).to_be_visible()
                # Nothing lies beside the screen.
                wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0


class Busy(BaseHTTPRequestHandler):
    """What answers in front of an agent that is away."""

    def do_GET(self) -> None:
        self.server.asked.set()  # type: ignore[attr-defined]
        self.send_error(503)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def busy(port: int) -> Iterator[threading.Event]:
    """Somebody who answers every question so; set once he was asked."""
    with ThreadingHTTPServer(("127.0.0.1", port), Busy) as server:
        asked = server.asked = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


def test_a_page_goes_on_once_its_agent_is_back_whoever_answered_meanwhile(
    still: Site, free_ports: list[int]
) -> None:
    """Sabotage: leave it to the browser, which does not ask again after it was answered with an error."""
    port = free_ports[0]
    listen = ("--listen", f"127.0.0.1:{port}")
    with browser() as made:
        with still.agent(*listen):
            still.until(lambda: '"Started"' in still.log(), "the agent listens")
            page = made.new_page()
            page.set_default_timeout(LATE)
            page.goto(f"http://127.0.0.1:{port}/")
            expect(page.locator("#link")).to_have_text("live", timeout=LATE)
        with busy(port) as asked:
            assert asked.wait(LATE / 1000)
            expect(page.locator("#link")).to_contain_text("trying again", timeout=LATE)
        with still.agent(*listen):
            expect(page.locator("#link")).to_have_text("live", timeout=LATE)


def is_used_by_keyboard(page: Page) -> None:
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    page.keyboard.press("/")
    page.keyboard.type("nothing like it")
    expect(page.locator("#names tbody tr")).to_have_count(0)
    page.locator("#filter").fill("we")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#detail-title")).to_have_text("vm web")
    page.locator("#filter").fill("")


def shows_a_job(tiny: Site, page: Page) -> None:
    """Its log as it is written, its end, and nothing of what it tries."""
    prints = "\n".join(f"  printf '%b\\n' '{line}'" for line in HOSTILE)
    tiny.write("hello.yaml", JOB.format(prints=prints))
    page.locator("#jobs button", has_text="hello").click()
    log = page.locator("#log")
    expect(log).to_contain_text("line 400")
    at_end = "one => one.scrollHeight - one.scrollTop - one.clientHeight < 60"
    tiny.until(lambda: page.evaluate(f"({at_end})(document.getElementById('log'))"), "it scrolls")
    expect(log).to_contain_text("the last line")
    expect(page.locator("#detail-message")).to_have_text("ScriptFailed: exit code 7")
    expect(page.locator("#facts")).to_contain_text("7")
    said = log.inner_text()
    assert "<script>window.taken = 1</script><img" in said
    assert "</pre><style>" in said
    assert "red alert" in said
    assert "\\u202etxt.exe" in said
    assert page.evaluate("window.taken") is None
    assert page.locator("img, style, script:not([src='/page.js'])").count() == 0

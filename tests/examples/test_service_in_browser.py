"""The page of the ledger service, in a real browser: Chromium, driven by chromedriver.

Skipped where there is none; ``AIODBKIT_REQUIRE`` with ``browser`` in it makes that a failure.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import urllib.error
import urllib.request
from contextlib import closing, contextmanager

import pytest

from tests.servers.environment import required

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id in WebDriver's JSON
TIMEOUT = 20  # seconds


class Browser:
    """As much of WebDriver as is needed here."""

    def __init__(self, driver, binary):
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        wanted = {"goog:chromeOptions": {"binary": binary, "args": arguments}}
        self._base = f"{driver}/session"
        made = self._call("", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/{made['sessionId']}"
        self._call("/timeouts", {"implicit": TIMEOUT * 1000, "script": TIMEOUT * 1000})

    def _call(self, path, body=None, method="POST"):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=2 * TIMEOUT) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, url):
        self._call("/url", {"url": url})

    def reload(self):
        self._call("/refresh", {})

    def find(self, css):
        return self._call("/element", {"using": "css selector", "value": css})[ELEMENT]

    def click(self, css):
        self._call(f"/element/{self.find(css)}/click", {})

    def type(self, css, text):
        element = self.find(css)
        self._call(f"/element/{element}/clear", {})
        self._call(f"/element/{element}/value", {"text": text})

    def run(self, script):
        return self._call(
            "/execute/sync", {"script": f"return (async () => {{ {script} }})()", "args": []}
        )

    def wait_until(self, css, text):
        """Return once an element's text has ``text`` in it; what it says instead is the failure."""
        said = self._call("/execute/async", {"script": WAIT, "args": [css, text, TIMEOUT * 900]})
        assert text in said, f"{css} says {said!r}"

    def close(self):
        self._call("", method="DELETE")


# Told by the browser when the page changes; nothing polls it.
WAIT = """
const [css, text, limit, done] = arguments;
const said = () => document.querySelector(css)?.innerText ?? "";
const look = () => { if (said().includes(text)) { observer.disconnect(); done(said()); } };
const observer = new MutationObserver(look);
observer.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
setTimeout(() => done(said()), limit);
look();
"""


@pytest.fixture(scope="module")
def driver():
    """Return the address of a chromedriver, and the browser for it."""
    programs = [shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("chrome")]
    if None in programs:
        if "browser" in required():
            pytest.fail("AIODBKIT_REQUIRE names browser, and there is none", pytrace=False)
        pytest.skip("no chromium with chromedriver; on Debian: apt-get install chromium-driver")
    command = [programs[0], "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    break
            else:
                pytest.fail("chromedriver ended without telling its port")
            yield f"http://127.0.0.1:{found[1]}", programs[1]
        finally:
            process.terminate()


@pytest.fixture
def page(driver, start_service, sqlite_url):
    """Return a function that opens the page of one running service in another browser."""
    with start_service(sqlite_url) as address, _browsers(driver) as start:

        def open_page():
            browser = start()
            browser.open(address)
            return browser

        yield open_page


@contextmanager
def _browsers(driver):
    opened = []

    def start():
        opened.append(Browser(*driver))
        return opened[-1]

    try:
        yield start
    finally:
        for browser in opened:
            browser.close()


def open_account(page, name, balance):
    page.type("#open [name=name]", name)
    page.type("#open [name=balance]", balance)
    page.click("#open button")


def transfer(page, amount):
    page.type("#transfer [name=amount]", amount)
    page.click("#transfer button")


def test_accounts_are_opened_and_money_is_transferred_by_clicks(page):
    page = page()
    page.wait_until("#no-accounts", "None yet")
    open_account(page, "Ada", "100")
    page.wait_until("#status", "Opened Ada with 100.00.")
    open_account(page, "Grace", "0.29")
    page.wait_until("#accounts", "Grace\t0.29")
    transfer(page, "12,50")
    page.wait_until("#status", "Transferred 12.50 from Ada to Grace.")
    page.wait_until("#accounts", "Ada\t87.50\nGrace\t12.79")
    page.wait_until("#transfers", "Ada\tGrace\t12.50")
    page.wait_until("#total", "100.29 in all")


def test_what_another_one_does_appears_by_itself(page):
    mine, theirs = page(), page()
    open_account(theirs, "Ada", "100")
    mine.wait_until("#accounts", "Ada\t100.00")


def test_what_is_refused_is_said_and_announced(page):
    page = page()
    open_account(page, "Ada", "100")
    page.wait_until("#status", "Opened Ada")
    open_account(page, "Ada", "100")
    page.wait_until("#status.bad", "There is an account named Ada already.")
    open_account(page, "Grace", "a lot")
    page.wait_until("#status.bad", "Write an amount like 12 or 12.50.")
    open_account(page, "Grace", "1")
    page.wait_until("#accounts", "Grace")
    transfer(page, "100.01")
    page.wait_until("#status.bad", "There is not enough money in that account.")
    assert page.run("return document.querySelector('#status').getAttribute('role')") == "status"


def test_a_transfer_whose_answer_was_lost_is_made_once(page):
    page = page()
    for name in ("Ada", "Grace"):
        open_account(page, name, "100")
        page.wait_until("#status", f"Opened {name}")
    # The request arrives; its answer does not.
    page.run(
        "const real = window.fetch; window.fetch = async (path, options) => {"
        "  const response = await real(path, options);"
        "  if (options) { window.fetch = real; throw new TypeError('the network went away'); }"
        "  return response; }"
    )
    transfer(page, "30")
    page.wait_until("#status.bad", "the network went away")
    page.click("#transfer button")
    page.wait_until("#status", "Transferred 30.00 from Ada to Grace.")
    page.wait_until("#accounts", "Ada\t70.00\nGrace\t130.00")


def test_a_name_is_shown_as_text_even_if_it_looks_like_html(page, sqlite_url):
    page = page()
    page.wait_until("#no-accounts", "None yet")
    evil = "<img src=x onerror=\"document.title='run'\">"
    # The service takes no such name; it may come into the table on another way.
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as database, database:
        insert = "insert into ledger_account (name, balance) values (?, 5000)"
        database.executemany(insert, [(evil,), ("Ada",)])
    page.wait_until("#accounts", evil)
    transfer(page, "30")
    page.wait_until("#status", f"Transferred 30.00 from {evil} to Ada.")
    page.wait_until("#transfers", evil)
    assert page.run("return document.querySelectorAll('img').length") == 0
    assert page.run("return document.title") == "Ledger"


def test_older_transfers_are_shown_when_asked_for(page):
    page = page()
    for name in ("Ada", "Grace"):
        open_account(page, name, "100")
        page.wait_until("#status", f"Opened {name}")
    page.run(
        "for (let n = 1; n <= 25; n++) await call('/transfers', {"
        "  sender: 1, recipient: 2, amount: n, request_key: `number-${n}`});"
    )
    page.reload()
    page.wait_until("#transfers", "0.25")
    count = "return document.querySelectorAll('#transfers tbody tr').length"
    assert page.run(count) == 20
    page.click("#older")
    page.wait_until("#transfers", "0.01")
    assert page.run(count) == 25
    assert page.run("return document.querySelector('#older').hidden")


def test_every_field_has_a_label_and_nothing_is_wider_than_a_phone(page):
    page = page()
    for name in ("Ada", "A name as long as names may be, sixty letters, and no more ok"[:60]):
        open_account(page, name, "1000000")
        page.wait_until("#accounts", name)
    transfer(page, "999999.99")
    page.wait_until("#transfers", "999,999.99")
    page.run("document.body.style.width = '320px'")
    unnamed = "return [...document.querySelectorAll('input, select')].filter(x => !x.labels.length)"
    assert page.run(unnamed) == []
    assert page.run("return document.body.scrollWidth") <= 320

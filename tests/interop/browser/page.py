"""A person in front of a browser, at the approval page of the bundled server.

Every wait is for a condition, with a limit. `aegis-broker login` runs beside the browser, as on a
person's other screen.
"""

import http.server
import json
import os
import re
import struct
import subprocess
import sys
import threading
import urllib.request

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support import expected_conditions as seen
from selenium.webdriver.support.ui import WebDriverWait

# In seconds: a page takes a few milliseconds, a login polls every five seconds.
LIMIT = 30
BROKER = os.environ["BROKER"]
HOUSE = os.environ["house"]
NAME, PASSWORD = os.environ["name"], os.environ["password"]
PICTURES = os.environ.get("PICTURES", HOUSE)


# What keeps a person from reading or using the page that is shown, in words. A text needs 4.5 times
# the brightness of its ground, or the reverse (WCAG 2.2, 1.4.3), a control's edge three times
# (1.4.11); what is focused one after the other stands below or beside it.
BARRIERS = """
const barriers = [];
const barrier = (words, one) => barriers.push(`${words}: ${one.outerHTML.slice(0, 120)}`);
const channels = (colour) => colour.match(/[0-9.]+/g).map(Number);
const ground = (one) => {
  for (; one; one = one.parentElement) {
    const [r, g, b, alpha = 1] = channels(getComputedStyle(one).backgroundColor);
    if (alpha === 1) return [r, g, b];
  }
  return [255, 255, 255];
};
const brightness = (colour) => colour.slice(0, 3)
  .map((part) => part / 255)
  .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
  .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
const contrast = (one, other) => {
  const [dark, bright] = [brightness(one), brightness(other)].sort((a, b) => a - b);
  return (bright + 0.05) / (dark + 0.05);
};
const shown = [...document.body.querySelectorAll('*')].filter((one) => one.getClientRects().length);
for (const one of shown) {
  const style = getComputedStyle(one);
  const says = one.value || [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (says && contrast(channels(style.color), ground(one)) < 4.5) barrier('faint', one);
  if (one.matches('input, button.main, button.other') &&
      contrast(channels(style.borderTopColor), ground(one.parentElement)) < 3) barrier('faint edge', one);
  if (says && parseFloat(style.fontSize) < 14) barrier('small', one);
  if (one.matches('input') && !(one.labels.length === 1 && one.labels[0].textContent.trim())) barrier('no label', one);
  for (const id of (one.getAttribute('aria-describedby') ?? '').split(' ').filter(Boolean))
    if (!document.getElementById(id)) barrier('described by nothing', one);
  if (one.hasAttribute('tabindex')) barrier('an order of its own', one);
}
const reached = shown.filter((one) => one.matches('a[href], button, input'));
reached.forEach((one, at) => {
  const [here, next] = [one, reached[at + 1]].map((one) => one?.getBoundingClientRect());
  if (here.height < 24) barrier('too low to be hit', one);
  if (next && next.bottom <= here.top) barrier('after what is below it', reached[at + 1]);
});
const headings = [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((one) => one.tagName);
if (headings[0] !== 'H1' || headings.slice(1).some((one) => one !== 'H2')) barriers.push(`headings ${headings}`);
if (document.documentElement.lang !== 'en') barriers.push('no language');
if (document.querySelectorAll('main').length !== 1) barriers.push('no main part');
if (!document.title.includes(document.querySelector('h1')?.textContent)) barriers.push(`title ${document.title}`);
if (document.documentElement.scrollWidth > document.documentElement.clientWidth) barriers.push('wider than the window');
return barriers;
"""


def want(holds, words):
    if not holds:
        sys.exit(f"wanted: {words}")


def control(path, body):
    """The bundled server does as it is told."""
    request = urllib.request.Request(
        f"{os.environ['control']}_ctl/{path}",
        data=json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {os.environ['control_token']}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:
        return json.load(answer)


class Command:
    """A command that shows a code and waits for the decision."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [BROKER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.said = ""
        self.code = self.find(r"\s([B-Z]{4}-[B-Z]{4})$")
        self.address = re.search(r"(http://\S+/device)\b", self.said)[1]

    def find(self, pattern):
        for line in self.process.stderr:
            self.said += line
            if found := re.search(pattern, line.rstrip()):
                return found[1]
        sys.exit(f"no {pattern} in {self.said}")

    def end(self):
        out, error = self.process.communicate(timeout=LIMIT)
        self.said += error
        return self.process.returncode, out

    def refused(self):
        """It ends with a refusal; its code."""
        status, out = self.end()
        want(status != 0, self.said)
        return json.loads(out.splitlines()[-1])["error"]["code"]


class Browser:
    def __init__(self, *arguments, scripts=True):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        # Chromium's own sandbox does not run as root.
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *arguments):
            options.add_argument(argument)
        options.add_argument("--window-size=900,1100")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        if not scripts:
            setting = {"profile.managed_default_content_settings.javascript": 2}
            options.add_experimental_option("prefs", setting)
        service = webdriver.ChromeService("/usr/bin/chromedriver")
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_page_load_timeout(LIMIT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.driver.quit()

    def on(self, heading):
        """Waits for the page with that heading."""
        here = seen.text_to_be_present_in_element((By.TAG_NAME, "h1"), heading)
        self.until(here, f"no page {heading}")
        # A page of our own, whichever it is, can be read and used.
        if self.driver.current_url.startswith("http"):
            barriers = self.barriers()
            want(barriers == [], f"{heading} can be used: {barriers}")

    def barriers(self):
        """What keeps a person from using the page."""
        return self.driver.execute_script(BARRIERS)

    def narrow(self, width):
        """As wide as a small telephone; no window gets that narrow."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )

    def text(self):
        return self.driver.find_element(By.TAG_NAME, "body").text

    def says(self, words):
        here = seen.text_to_be_present_in_element((By.TAG_NAME, "main"), words)
        self.until(here, f"not said: {words}")

    def fill(self, label, words):
        """Finds a field by its label, as a person does."""
        label = self.driver.find_element(By.XPATH, f"//label[normalize-space()='{label}']")
        field = self.driver.find_element(By.ID, label.get_attribute("for"))
        field.clear()
        field.send_keys(words)

    def press(self, words):
        """Presses a button and waits until the page it was on is gone."""
        page = self.page()
        button = self.driver.find_element(By.XPATH, f"//button[normalize-space()='{words}']")
        button.click()
        self.until(lambda _driver: self.page() != page, f"{words} does nothing")

    def page(self):
        """The page that is shown: another one after each answer, also at the same address."""
        return self.driver.find_element(By.TAG_NAME, "html").id

    def until(self, condition, words):
        """Waits for that. Between two pages the driver may know neither, and says so."""
        wait = WebDriverWait(self.driver, LIMIT, ignored_exceptions=[WebDriverException])
        wait.until(condition, words)

    def sign_in(self, address):
        self.driver.get(address)
        self.on("Sign in")
        self.fill("Name", NAME)
        self.fill("Password", PASSWORD)
        self.press("Sign in")

    def enter(self, code):
        self.on("Enter the code")
        self.fill("Code", code)
        self.press("Continue")

    def review(self, command):
        """From the address that the command shows to the question."""
        self.sign_in(command.address)
        self.enter(command.code)
        self.on("Approve this login?")
        want(command.code in self.text(), "the code to compare")

    def picture(self, name):
        path = os.path.join(PICTURES, f"{name}.png")
        want(self.driver.save_screenshot(path), f"a picture {name}")
        with open(path, "rb") as file:
            head = file.read(24)
        width, height = struct.unpack(">II", head[16:24])
        want(head[:8] == b"\x89PNG\r\n\x1a\n" and width >= 300 and height > 300, "a picture")

    def complaints(self):
        """What the browser holds against the pages, but for the icon that there is none of."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if "favicon" not in entry["message"]]


def approves():
    """The address without the code: sign in, type the code, read, approve."""
    command = Command("login")
    with Browser() as browser:
        browser.driver.get(command.address)
        browser.on("Sign in")
        browser.picture("1-sign-in")
        browser.sign_in(command.address)
        browser.on("Enter the code")
        browser.picture("2-code")
        browser.enter(command.code)
        browser.on("Approve this login?")
        text = browser.text()
        for shown in (
            command.code,
            "aegis-broker --mock",
            "business-default",
            "gcp/billing-prod/deploy-bot",
            "create, redeem, revoke",
        ):
            want(shown in text, f"{shown} in {text}")
        want(re.search(r"\b[A-Za-z0-9_-]{43}\b", text), "a thumbprint")
        styled = browser.driver.find_element(By.TAG_NAME, "main")
        want(styled.value_of_css_property("border-top-style") == "solid", "the style sheet")
        browser.picture("3-question")
        # The same question in two windows: it is answered once.
        first = browser.driver.current_window_handle
        browser.driver.switch_to.new_window("window")
        browser.driver.get(f"{command.address}/review")
        browser.on("Approve this login?")
        browser.press("Approve")
        browser.on("Approved")
        browser.picture("4-approved")
        complaints = browser.complaints()
        want(complaints == [], f"no complaints of the browser's: {complaints}")
        browser.driver.switch_to.window(first)
        browser.press("Deny")
        browser.on("This form is out of date")
        browser.driver.find_element(By.LINK_TEXT, "Start again").click()
        browser.on("Enter the code")
        browser.press("Sign out")
        browser.on("Sign in")
    status, _ = command.end()
    want(status == 0 and "logged in as user:u-demo" in command.said, command.said)
    subprocess.run([BROKER, "logout"], check=True, capture_output=True, timeout=LIMIT)


def denies():
    command = Command("login", "--json")
    with Browser() as browser:
        browser.review(command)
        browser.press("Deny")
        browser.on("Denied")
        browser.picture("5-denied")
    want(command.refused() == "access_denied", command.said)


def guesses():
    """DG-10: after five wrong codes the right one has to wait."""
    command = Command("login", "--json")
    with Browser() as browser:
        browser.sign_in(command.address)
        for number in range(5):
            browser.on("Enter the code")
            browser.fill("Code", f"BBBB-BBB{'BCDFG'[number]}")
            browser.press("Continue")
            browser.says("No login has that code")
        browser.picture("6-wrong-code")
        browser.enter(command.code)
        browser.says("Too many wrong codes")
        browser.picture("7-too-many")
        control("clock", {"advanceSeconds": 60})
        browser.enter(command.code)
        browser.on("Approve this login?")
        browser.press("Deny")
        browser.on("Denied")
    want(command.refused() == "access_denied", command.said)


def expires():
    command = Command("login", "--json")
    with Browser() as browser:
        browser.review(command)
        control("clock", {"advanceSeconds": 600})
        browser.press("Approve")
        browser.on("The code has expired")
        browser.picture("8-expired")
        browser.driver.find_element(By.LINK_TEXT, "Enter another code").click()
        browser.enter(command.code)
        browser.says("That code has expired")
    want(command.refused() == "expired_token", command.said)


def with_the_keyboard_alone():
    """The address with the code in it; Tab and Enter, and what is focused can be seen."""
    command = Command("login")
    with Browser() as browser:
        browser.driver.get(f"{command.address}?user_code={command.code}")
        browser.on("Sign in")
        keys = lambda *keys: webdriver.ActionChains(browser.driver).send_keys(*keys).perform()
        focused = lambda: browser.driver.switch_to.active_element
        want(focused().get_attribute("id") == "name", "the name first")
        keys(NAME, Keys.TAB)
        want(focused().get_attribute("id") == "password", "then the password")
        keys(PASSWORD, Keys.ENTER)
        browser.on("Compare the code")
        browser.picture("9-compare")
        tab_to(browser, keys, focused, "My device shows this code")
        keys(Keys.ENTER)
        browser.on("Approve this login?")
        order = tab_to(browser, keys, focused, "Approve")
        want(order == ["Approve"], f"Approve is the first stop: {order}")
        outline = focused().value_of_css_property("outline-style"), focused().value_of_css_property("outline-width")
        want(outline == ("solid", "3px"), f"an outline: {outline}")
        browser.picture("10-focus")
        keys(Keys.ENTER)
        browser.on("Approved")
    want(command.end()[0] == 0, command.said)
    subprocess.run([BROKER, "logout"], check=True, capture_output=True, timeout=LIMIT)


def tab_to(browser, keys, focused, words):
    """The controls on the way, by their words. A page has ten at most."""
    order = []
    for _ in range(10):
        keys(Keys.TAB)
        order.append(focused().text)
        if order[-1] == words:
            return order
    sys.exit(f"no way to {words}: {order}")


def without_scripts():
    command = Command("login")
    with Browser(scripts=False) as browser:
        # The control: a page that would write with a script does not.
        browser.driver.get("data:text/html,<h1>none</h1><script>document.write('some')</script>")
        browser.on("none")
        want("some" not in browser.text(), "no scripts")
        browser.review(command)
        browser.press("Approve")
        browser.on("Approved")
    want(command.end()[0] == 0, command.said)
    subprocess.run([BROKER, "logout"], check=True, capture_output=True, timeout=LIMIT)


def denies_with_the_keyboard_alone():
    """The address without the code, a slip in it, and the other answer."""
    command = Command("login", "--json")
    with Browser() as browser:
        browser.driver.get(command.address)
        browser.on("Sign in")
        keys = lambda *keys: webdriver.ActionChains(browser.driver).send_keys(*keys).perform()
        focused = lambda: browser.driver.switch_to.active_element
        keys(NAME, Keys.TAB, PASSWORD, Keys.ENTER)
        browser.on("Enter the code")
        want(focused().get_attribute("id") == "user_code", "the code first")
        keys("BBBB", Keys.ENTER)
        browser.says("No login has that code")
        want(focused().get_attribute("id") == "user_code", "the code again")
        whole = webdriver.ActionChains(browser.driver).key_down(Keys.CONTROL)
        whole.send_keys("a").key_up(Keys.CONTROL).perform()
        keys(command.code.lower().replace("-", ""), Keys.ENTER)
        browser.on("Approve this login?")
        order = tab_to(browser, keys, focused, "Deny")
        want(order == ["Approve", "Deny"], f"after Approve: {order}")
        keys(Keys.SPACE)
        browser.on("Denied")
    want(command.refused() == "access_denied", command.said)


def on_a_narrow_dark_screen():
    """As wide as a small telephone: nothing has to be scrolled sideways, and all can be read."""
    command = Command("login", "--json")
    with Browser("--force-dark-mode", "--force-prefers-color-scheme=dark") as browser:
        browser.narrow(320)
        # The control: barriers are found.
        bad = (
            "<body style='background:white'><h2>x</h2><p style='color:gray;font-size:9px'>faint</p>"
            "<input style='border:1px solid silver' tabindex=1><div style='width:999px'>wide</div>"
        )
        browser.driver.get(f"data:text/html,{bad}")
        found = " ".join(browser.barriers())
        for words in (
            "faint: ", "faint edge", "small", "no label", "an order of its own", "headings H2",
            "no language", "no main part", "wider than the window",
        ):
            want(words in found, f"{words} in {found}")
        browser.driver.get(command.address)
        browser.on("Sign in")
        browser.picture("11-narrow-sign-in")
        browser.sign_in(command.address)
        browser.enter("BBBB-BBBB")
        browser.says("No login has that code")
        browser.on("Enter the code")
        browser.picture("11-narrow-wrong-code")
        browser.enter(command.code)
        browser.on("Approve this login?")
        browser.picture("11-narrow-question")
        browser.driver.execute_script("scrollTo(0, document.body.scrollHeight)")
        browser.picture("11-narrow-question-end")
        browser.press("Deny")
        browser.on("Denied")
        browser.picture("11-narrow-denied")
    want(command.refused() == "access_denied", command.said)


class Neighbour(http.server.BaseHTTPRequestHandler):
    """Another origin on this machine: whatever is asked of it, it frames that path of the server."""

    def do_GET(self):
        page = f"<iframe src='{os.environ['api'].rstrip('/')}{self.path}'></iframe>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_):
        pass


def is_not_framed():
    """IN-2: in a frame of another page the browser shows an error in place of ours."""
    neighbour = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Neighbour)
    threading.Thread(target=neighbour.serve_forever, daemon=True).start()
    with Browser() as browser:

        def framed(path):
            """Text and address of what is in the frame, once all of it is loaded."""
            browser.driver.get(f"http://127.0.0.1:{neighbour.server_port}{path}")
            frame = seen.frame_to_be_available_and_switch_to_it((By.TAG_NAME, "iframe"))
            WebDriverWait(browser.driver, LIMIT).until(frame)
            return browser.text(), browser.driver.execute_script("return document.URL")

        # The control: what may be framed is.
        text, address = framed("/healthz")
        want(text == "ok" and address.endswith("/healthz"), f"a frame, not {address}: {text}")
        text, address = framed("/device")
        want("Sign in" not in text, "no sign-in in a frame")
        want(address.startswith("chrome-error:"), f"an error, not {address}: {text}")
    neighbour.shutdown()


def demonstration():
    """`demo --browser` goes on when a person approves."""
    command = Command("demo", "--json", "--browser")
    name = re.search(r"sign in as +(\S+)", command.said)[1]
    password = re.search(r"password +(\S+)", command.said)[1]
    address = re.search(r"open +(\S+)", command.said)[1]
    with Browser() as browser:
        browser.driver.get(address)
        browser.on("Sign in")
        # A slip first: it is the person's, and no event of the daemon's.
        browser.fill("Name", name)
        browser.fill("Password", "slip")
        browser.press("Sign in")
        browser.says("Name and password do not fit")
        browser.picture("12-wrong-password")
        browser.fill("Password", password)
        browser.press("Sign in")
        browser.on("Compare the code")
        browser.press("My device shows this code")
        browser.on("Approve this login?")
        want("aegis-broker demo" in browser.text(), "who asks")
        browser.press("Approve")
        browser.on("Approved")
    status, out = command.end()
    report = json.loads(out)
    want(status == 0 and report["ok"] is True, out)
    want(report["login"]["approved_by"] == "a person at the server's page", out)
    want(report["audit"]["reconciled"] is True and report["whoami"]["after_revoke"] == 401, out)


for story in (
    approves,
    denies,
    guesses,
    expires,
    with_the_keyboard_alone,
    denies_with_the_keyboard_alone,
    without_scripts,
    on_a_narrow_dark_screen,
    is_not_framed,
    demonstration,
):
    story()
    print(f"ok  {story.__name__.replace('_', ' ')}")

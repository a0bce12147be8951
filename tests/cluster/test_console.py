"""The web console in a real browser, before three real processes."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.keys import Keys

from consensus import blocking
from consensus.access.passwords import hash_password
from consensus.access.users import Role, User, Users, nobody, save
from contrib.kvstore import KVClient
from tests.support.chromium import Tab, chromium, needs_chromium
from tests.support.development import Development
from tests.support.processes import PATIENCE, MemberProcesses, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A machine that is busy must not change leaders by itself.
TIMING = {"heartbeat_interval": 0.1, "election_timeout": 1.0}

#: Where the screenshots of the documentation are.
HOWTO = Path(__file__).parents[2] / "docs" / "howto"

EVIL = "<script>document.title = 'taken over'</script>"

#: A page that is drawn has more colours; one that is blank has one.
FEW_COLOURS = 40

#: Measures each pair of text and ground: WCAG's contrast, where it is below AA.
CONTRASTS = """
const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((part) => {
        const share = part / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
        const colour = getComputedStyle(each).backgroundColor;
        if (!/, 0\\)|transparent/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
};
const hidden = ":disabled, .unseen, .skip, .reign, noscript";
const hasText = (element) =>
    [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
const found = [];
for (const element of document.querySelectorAll("body *:not(svg *)")) {
    if (!hasText(element) || element.closest(hidden)) continue;
    if (!element.checkVisibility()) continue;
    const one = light(getComputedStyle(element).color);
    const other = light(ground(element));
    const [most, least] = [Math.max(one, other), Math.min(one, other)];
    const contrast = (most + 0.05) / (least + 0.05);
    if (contrast < 4.5) found.push(`${element.textContent}: ${contrast}`);
}
return found;
"""


def is_open(port: int) -> bool:
    """Say whether somebody listens."""
    with socket.socket() as visitor:
        return visitor.connect_ex(("127.0.0.1", port)) == 0


class Cluster(MemberProcesses):
    """Three members with a console each."""

    def __init__(self, directory: Path, **keys: Any) -> None:
        names = ("s1", "s2", "s3")
        self.ports = dict(zip(names, free_ports(3), strict=True))
        http = {name: f"tcp:127.0.0.1:{port}" for name, port in self.ports.items()}
        super().__init__(directory, timing=TIMING, http=http, **keys)

    def page(self, name: str) -> str:
        """Return where the console of *name* is, as soon as it is there."""
        deadline = time.monotonic() + PATIENCE
        while not is_open(self.ports[name]):
            assert time.monotonic() < deadline, self.log(name)
        return f"http://127.0.0.1:{self.ports[name]}/"

    def write(self, pairs: dict[str, str]) -> None:
        """Set keys, one after another."""
        with blocking.connect(self.addresses, timeout=30.0) as client:
            store = client.use(KVClient)
            for key, value in pairs.items():
                store.set(key, value)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Return three members that run."""
    with Cluster(tmp_path) as made:
        yield made


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    """Return a page in a browser that has seen nothing yet."""
    with chromium(tmp_path / "browser") as made:
        made.resize(1280, 980)
        yield made


def leader_of(tab: Tab) -> str:
    """Return whom the page shows as the leader."""
    return tab.text("#figures > div:first-child dd")


def rows(tab: Tab) -> dict[str, str]:
    """Return what the page says of each member."""
    return {text.split()[0]: text for text in tab.texts("#members tr") if text}


def answer(tab: Tab, *typed: str) -> None:
    """Fill the fields of the dialog in, and confirm; all by keyboard."""
    for word in typed:
        tab.press(word, Keys.TAB)
    tab.tab_to("dialog-confirm")
    tab.press(Keys.ENTER)


def follower_of(tab: Tab) -> str:
    """Return a member that does not lead."""
    return next(name for name in ("s1", "s2", "s3") if name != leader_of(tab))


@needs_chromium
def test_console(cluster: Cluster, tab: Tab, tmp_path: Path) -> None:
    """What happens to the cluster is to be seen, and can be done by keyboard."""
    cluster.write({"colour": "blue", "evil": EVIL})
    cluster.write({f"user:{number}": f"name {number}" for number in range(80)})
    see_the_leader(cluster, tab)
    change_the_members(cluster, tab)
    browse_the_log(tab)
    browse_the_keys(tab)
    # The browser notes each request that is refused: no faults are offered here.
    noted = {each.split(" - ")[0] for each in tab.complaints()}
    assert {url.partition("/api/v1/")[2] for url in noted} == {"faults", "members"}
    see_a_new_leader(cluster, tab)
    cluster.write({f"user:{number}": f"name {number}" for number in range(60)})
    tab.until(lambda: "ms" in tab.text("#latency"))
    tab.until(lambda: set(tab.texts(".pill-text")) == {"0 behind"})
    take_screenshots(tab, tmp_path)
    see_nobody_answer(cluster, tab)


def see_the_leader(cluster: Cluster, tab: Tab) -> None:
    """See that the port's first page is the console, which says who leads."""
    tab.driver.get(cluster.page("s1"))
    tab.until(lambda: leader_of(tab) in cluster.addresses)
    leader = leader_of(tab)
    # The console of a follower: the leader is going to be killed.
    tab.driver.get(cluster.page(follower_of(tab)))
    tab.until(lambda: leader_of(tab) == leader)
    tab.until(lambda: len(rows(tab)) == 3 and "leader" in rows(tab)[leader])
    assert tab.text("#cluster-name") == "test"
    picture = "return document.querySelector('#picture svg').getAttribute('aria-label')"
    assert f"{leader} leads in term" in tab.run(picture)
    tab.until(lambda: f"{leader} leads" in tab.text("#timeline"))
    tab.until(lambda: "ms" in tab.text("#latency"))


def change_the_members(cluster: Cluster, tab: Tab) -> None:
    """Add a member, and remove it again, without a mouse."""
    address = cluster.invite("s4", http=f"tcp:127.0.0.1:{free_ports(1)[0]}")
    tab.tab_to("add")
    tab.press(Keys.ENTER)
    # What is missing is said, and what the API says is shown.
    answer(tab, "s4")
    tab.until(lambda: tab.text("#dialog-error") == "Address is missing.")
    answer(tab, "nowhere")
    tab.until(lambda: "nowhere" in tab.text("#dialog-error"))
    tab.press(Keys.ESCAPE)
    tab.until(lambda: not tab.run("return document.getElementById('dialog').open"))
    assert tab.focused() == "add"
    tab.press(Keys.ENTER)
    answer(tab, "s4", address)
    tab.until(lambda: "s4" in rows(tab))
    # Now: it would have joined by itself.
    cluster.start("s4")
    tab.until(lambda: re.search(r"\bvoter\b", rows(tab).get("s4", "")))
    tab.tab_to("Remove: s4")
    tab.press(Keys.ENTER)
    # What cannot be undone is not one key away.
    assert tab.focused() == "dialog-cancel"
    answer(tab)
    tab.until(lambda: "s4" not in rows(tab))
    # Who works by keyboard goes on from there.
    assert tab.focused() == "members-title"
    assert any("s4" in text for text in tab.texts("#timeline li"))
    cluster.stop("s4")


def browse_the_log(tab: Tab) -> None:
    """Read in the log what each command means, and find one."""
    tab.tab_to("Log")
    tab.press(Keys.ENTER)
    tab.tab_to("log-first")
    tab.press(Keys.ENTER)
    tab.until(lambda: "Set(key=b'colour'" in tab.text("#entries"))
    tab.tab_to("log-filter")
    tab.press("EVIL", Keys.ENTER)
    tab.until(lambda: len(tab.texts("#entries tr")) == 1)
    assert EVIL in tab.text("#entries")
    assert "Looked through" in tab.text("#log-note")


def browse_the_keys(tab: Tab) -> None:
    """List keys by prefix; a value is text, whatever it says."""
    tab.tab_to("keys-link")
    tab.press(Keys.ENTER)
    tab.until(lambda: EVIL in tab.text("#items"))
    assert tab.driver.title == "test - Raft console"
    tab.tab_to("keys-prefix")
    tab.press("user:", Keys.ENTER)
    tab.until(lambda: len(tab.texts("#items tr")) == 50)
    tab.tab_to("keys-next")
    tab.press(Keys.ENTER)
    tab.until(lambda: "user:9 name 9" in tab.text("#items"))
    assert len(tab.texts("#items tr")) == 30


def see_a_new_leader(cluster: Cluster, tab: Tab) -> None:
    """Kill the leader: the page shows who leads next."""
    tab.run("document.querySelector('[data-view=cluster]').click()")
    tab.until(lambda: leader_of(tab) in cluster.addresses)
    old = leader_of(tab)
    cluster.kill(old)
    tab.until(lambda: leader_of(tab) in cluster.running)
    new = leader_of(tab)
    tab.until(lambda: "no answer" in rows(tab)[old])
    tab.until(lambda: f"{new} leads" in tab.text("#timeline"))
    assert f"{new} leads now" in tab.run(
        "return document.getElementById('said').textContent"
    )
    cluster.start(old)
    tab.until(lambda: "follower" in rows(tab)[old])


def take_screenshots(tab: Tab, tmp_path: Path) -> None:
    """See that it can be read in both colour schemes, and with little room."""
    place = HOWTO if os.environ.get("RAFT_SCREENSHOTS") == "1" else tmp_path
    grounds = set()
    for scheme in ("light", "dark"):
        tab.prefer(scheme)
        grounds.add(tab.run("return getComputedStyle(document.body).backgroundColor"))
        assert tab.run(CONTRASTS) == []
        assert tab.shoot(place / f"console-{scheme}.png") > FEW_COLOURS
    assert len(grounds) == 2
    tab.resize(320, 800)
    wide = "return document.documentElement.scrollWidth"
    tab.until(lambda: tab.run(wide) <= 320)
    tab.resize(1280, 980)


def see_nobody_answer(cluster: Cluster, tab: Tab) -> None:
    """Stop the page's own server: it says so, tries again, and finds it again."""
    port = int(tab.driver.current_url.split(":")[2].partition("/")[0])
    name = next(each for each, number in cluster.ports.items() if number == port)
    cluster.stop(name)
    tab.until(lambda: "cannot be reached" in tab.text("#banner"))
    assert "Trying again in" in tab.text("#banner")
    cluster.start(name)
    tab.until(lambda: tab.text("#banner") == "")
    tab.until(lambda: leader_of(tab) in cluster.running)


@needs_chromium
def test_login(tmp_path: Path, tab: Tab) -> None:
    """Where there are users, the page asks who it is, and forgets it again."""
    users, secret = tmp_path / "users.yaml", tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("0123456789abcdef0123")
    root = User((Role("admin"),), hash_password("right"))
    save(users, Users(nobody().key, {"root": root}))
    access = {"users": str(users), "secret": str(secret)}
    with Cluster(tmp_path, access=access) as cluster:
        tab.driver.get(cluster.page("s1"))
        tab.until(lambda: tab.text("#dialog-title") == "Log in")
        # There is no way around it.
        tab.press(Keys.ESCAPE)
        tab.press(Keys.ESCAPE)
        tab.until(lambda: tab.text("#dialog-title") == "Log in")
        log_in(tab, "wrong")
        tab.until(lambda: tab.text("#dialog-error") != "")
        assert leader_of(tab) == ""
        log_in(tab, "right")
        tab.until(lambda: leader_of(tab) in cluster.addresses)
        kept = "localStorage.length + sessionStorage.length + document.cookie.length"
        assert tab.run(f"return {kept}") == 0
        tab.driver.refresh()
        tab.until(lambda: tab.text("#dialog-title") == "Log in")


def log_in(tab: Tab, password: str) -> None:
    """Say to be somebody with a *password*."""
    for name, value in (("user", "root"), ("password", password)):
        script = "document.getElementById(`field-${arguments[0]}`).select()"
        tab.run(script, name)
        tab.press(value)
    tab.press(Keys.ENTER)


@needs_chromium
def test_faults(tmp_path: Path, tab: Tab) -> None:
    """Under ``raft dev`` each fault has a switch, which does what it says."""
    with Development(tmp_path, "kvstore") as dev:
        dev.ready()
        tab.driver.get(dev.page("s1"))
        tab.until(lambda: leader_of(tab) != "")
        tab.until(lambda: len(rows(tab)) == 3)
        tab.until(lambda: tab.text("#faults-panel") != "")
        # The one that leads, if it is not the one that shows the page.
        victim = "s2" if leader_of(tab) == "s1" else leader_of(tab)
        for fault in ("Stop", "Pause", "Partition"):
            switch(tab, fault, victim, "true")
            tab.until(lambda: "no answer" in rows(tab)[victim])
            tab.until(lambda: leader_of(tab) not in {"", victim})
            switch(tab, fault, victim, "false")
            tab.until(lambda: "follower" in rows(tab)[victim])
        switch(tab, "Slow disk", victim, "true")
        assert "syncs +" in dev.status(victim)
        switch(tab, "Clock skew", "s1", "true")
        assert "clock" in dev.status("s1")
        for fault, server in (("Slow disk", victim), ("Clock skew", "s1")):
            switch(tab, fault, server, "false")
            assert "+" not in dev.status(server)
        assert tab.complaints() == []


def switch(tab: Tab, fault: str, server: str, state: str) -> None:
    """Press a switch, and see that it is in *state* then."""
    button = f"[aria-label='{fault}: {server}']"
    pressed = f"return document.querySelector(`{button}`)?.ariaPressed"
    tab.until(lambda: tab.run(pressed) not in {None, state})
    tab.run(f"document.querySelector(`{button}`).focus()")
    tab.press(Keys.SPACE)
    tab.until(lambda: tab.run(pressed) == state)

"""Who is told what, by real receivers: once when it opens, gets worse, and is over, in order, whatever is down meanwhile."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import astuple, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from analytics_assets.alerts.declared import AlertRules
from analytics_assets.alerts.journal import ALERTS, Alert
from analytics_assets.alerts.problems import Problem
from analytics_assets.alerts.watch import AlertWatch
from analytics_assets.settings import PROJECT
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.records import write
from analytics_assets_tests.alerts.receivers import Mails, Web, a_mail_server, a_silent_port, a_web_server
from analytics_assets_tests.builders import at

LATE = Problem(
    "table_late", "acme", "acme", "warn", "9 tables are late: a delivery waits: 65 min, promised 5 min", at(-60),
    "a file waits to be loaded, and the last load failed: no space left",
)  # fmt: skip
WORSE = replace(LATE, severity="page", what="9 tables are late: a delivery waits: 3 h, promised 5 min")


def of(tenant: str, problem: Problem = LATE) -> Problem:
    return replace(problem, about=tenant, tenant=tenant)


class Desk:
    """The alerts of a data home, told to channels by a clock of our own."""

    def __init__(self, home: Path, **channels: dict[str, Any]) -> None:
        self.con = duckdb.connect()
        self.home = Home(home)
        self.declare(**channels)

    def declare(self, *, warn: str = "", page: str = "", **channels: dict[str, Any]) -> None:
        routes = {"warn": warn.split() or list(channels), "page": page.split() or list(channels)}
        self.watch = AlertWatch(self.home, AlertRules.model_validate({"channels": channels, "routes": routes}))

    def look(self, minute: float, *found: Problem) -> dict[str, str]:
        """One look; returns why a channel could not be told."""
        self.watch.settle(self.con, found, at(minute))
        return self.watch.tell(self.con, at(minute), {"TOKEN": "hush-hush", "EMPTY": ""})[1]

    def alerts(self) -> list[Alert]:
        return self.watch.alerts(self.con)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def web() -> Iterator[Web]:
    with a_web_server() as web:
        yield web


@pytest.fixture
def mails() -> Iterator[Mails]:
    with a_mail_server() as mails:
        yield mails


def hook(web: Web, **more: Any) -> dict[str, Any]:
    return {"kind": "webhook", "url": web.url, **more}


def test_an_alert_is_told_once_and_not_once_a_look(home: Path, web: Web) -> None:
    desk = Desk(home, ops=hook(web))
    for minute in range(5):
        assert desk.look(minute, LATE) == {}
    (message,) = web.got
    assert message["text"].splitlines() == [
        "[warn] table_late: acme",
        "9 tables are late: a delivery waits: 65 min, promised 5 min",
        "since: 2026-03-10 11:00 UTC",
        "probably: a file waits to be loaded, and the last load failed: no space left",
        "what to do: docs/runbooks/table_late.md",
    ]
    assert (message["event"], message["rule"], message["tenants"]) == ("opened", "table_late", ["acme"])
    assert (message["since"], message["severity"]) == ("2026-03-10T11:00:00", "warn")
    desk.look(10)
    desk.look(11)
    assert web.texts[1].splitlines()[:2] == ["[resolved] table_late: acme", "over since 2026-03-10 12:10 UTC, after 70 min"]
    assert len(web.got) == 2
    (row,) = desk.alerts()
    assert (row.opened_at, row.notified_at, row.resolved_at) == (at(0), at(0), at(10))


def test_what_comes_back_is_a_new_alert(home: Path, web: Web) -> None:
    desk = Desk(home, ops=hook(web))
    for minute, found in enumerate(([LATE], [], [LATE], [])):
        desk.look(minute, *found)
    assert [(one["event"], one["rule"]) for one in web.got] == [("opened", "table_late"), ("resolved", "table_late")] * 2
    assert len({one["id"] for one in web.got}) == 4


def test_tenants_with_the_same_trouble_for_the_same_cause_are_one_message(home: Path, web: Web) -> None:
    desk = Desk(home, ops=hook(web))
    other = replace(of("initech"), cause="a check refused the publish")
    desk.look(0, *(of(f"shop-{n}") for n in range(7)), other)
    assert [one["tenants"] for one in web.got] == [["initech"], [f"shop-{n}" for n in range(7)]]
    assert web.texts[1].splitlines()[0] == "[warn] table_late: shop-0, shop-1, shop-2 and 4 more"
    assert "and 2 more" in web.texts[1].splitlines()
    # one of them is well again: the others are not told anew
    desk.look(1, *(of(f"shop-{n}") for n in range(1, 7)), other)
    assert [(one["event"], one["tenants"]) for one in web.got[2:]] == [("resolved", ["shop-0"])]


def test_what_gets_worse_is_told_once_more_to_all_who_are_to_wake(home: Path, web: Web) -> None:
    with a_web_server() as night, a_web_server() as day:
        desk = Desk(home)
        desk.declare(warn="ops day", page="ops night", ops=hook(web), day=hook(day), night=hook(night))
        desk.look(0, LATE)
        assert [len(one.got) for one in (web, day, night)] == [1, 1, 0]
        desk.look(1, WORSE)
        desk.look(2, WORSE)
        # it is not less bad because the burn has slowed down
        desk.look(3, LATE)
        desk.look(4, WORSE)
        assert [web.texts[1].splitlines()[:2], night.texts[0].splitlines()[:2]] == [["[page] table_late: acme", WORSE.what]] * 2
        desk.look(5)
        assert [one["event"] for one in web.got] == ["opened", "worsened", "resolved"]
        assert [one["event"] for one in day.got] == ["opened", "resolved"]
        assert [one["event"] for one in night.got] == ["worsened", "resolved"]
        assert len({one["id"] for one in web.got}) == 3
        assert night.got[0]["id"] == web.got[1]["id"]


def test_who_was_down_when_it_got_worse_is_told_how_bad_it_is_and_not_how_it_began(home: Path, web: Web) -> None:
    desk = Desk(home, ops=hook(web))
    web.answer = 500
    desk.look(0, LATE)
    desk.look(1, WORSE)
    web.answer = 204
    desk.look(2, WORSE)
    desk.look(3)
    assert [(one["event"], one["severity"]) for one in web.got] == [("worsened", "page"), ("resolved", "page")]


def test_alerts_of_a_home_that_knew_no_worse_go_on(home: Path, web: Web) -> None:
    desk = Desk(home, ops=hook(web))
    before = replace(ALERTS, columns=tuple(column for column in ALERTS.columns if column.name != "worsened_at"))
    desk.watch.settle(desk.con, [LATE], at(0))
    (row,) = desk.alerts()
    old = Home(home.with_name("old"))
    write(desk.con, old, before, [astuple(replace(row, deliveries='{"ops": {}}'))[:-1]])
    desk.home = old
    desk.declare(ops=hook(web))
    for minute, found in enumerate(([LATE], [WORSE], [])):
        desk.look(minute, *found)
    assert [one["event"] for one in web.got] == ["opened", "worsened", "resolved"]


def test_a_receiver_that_is_down_is_told_in_order_when_it_is_back_and_holds_up_nobody(home: Path, web: Web) -> None:
    with a_web_server() as gone:
        port = gone.port
    desk = Desk(home, dead={"kind": "webhook", "url": f"http://127.0.0.1:{port}/"}, ops=hook(web), log={"kind": "log"})
    (said,) = {desk.look(minute, *found)["dead"] for minute, found in enumerate(([LATE], [LATE, of("globex")], [of("globex")]))}
    assert "Connection refused" in said
    assert len(web.got) == len((home / "alerts.log").read_text().splitlines()) == 3
    with a_web_server(port) as back:
        assert desk.look(3, of("globex")) == {}
        assert desk.look(4, of("globex")) == {}
        assert [(one["event"], one["tenants"]) for one in back.got] == [
            ("opened", ["acme"]), ("opened", ["globex"]), ("resolved", ["acme"])
        ]  # fmt: skip
    assert [one["id"] for one in back.got] == [one["id"] for one in web.got]


@pytest.mark.parametrize("answer", [302, 404, 500])
def test_an_answer_that_is_no_success_is_tried_again(home: Path, web: Web, answer: int) -> None:
    desk = Desk(home, ops=hook(web))
    web.answer = answer
    assert str(answer) in desk.look(0, LATE)["ops"]
    assert desk.alerts()[0].notified_at is None
    web.answer = 204
    assert desk.look(1, LATE) == {}
    assert len(web.got) == 1


def test_a_receiver_that_never_answers_costs_its_timeout_once_a_look(home: Path, web: Web) -> None:
    with a_silent_port() as port:
        silent = {"kind": "webhook", "url": f"http://127.0.0.1:{port}/", "timeout_seconds": 0.2}
        mute = {"kind": "email", "host": "127.0.0.1", "port": port, "starttls": False, "sender": "a@b.test", "to": ["c@d.test"],
                "timeout_seconds": 0.2}  # fmt: skip
        desk = Desk(home, silent=silent, mute=mute, ops=hook(web))
        assert set(desk.look(0, LATE, of("globex"))) == {"silent", "mute"}
    assert len(web.got) == 1


def test_a_process_killed_after_it_told_and_before_it_noted_tells_it_again_under_the_same_id(home: Path, web: Web) -> None:
    code = f"""
import os, signal
from pathlib import Path
from analytics_assets.alerts import watch
from analytics_assets_tests.alerts.test_telling import LATE, Desk, at
desk = Desk(Path({str(home)!r}), ops={{"kind": "webhook", "url": {web.url!r}}})
desk.watch.settle(desk.con, [LATE], at(0))
watch.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
desk.look(0, LATE)
"""
    died = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert died.returncode == -signal.SIGKILL
    assert len(web.got) == 1
    desk = Desk(home, ops=hook(web))
    assert desk.look(1, LATE) == {}
    assert desk.look(2, LATE) == {}
    assert [one["id"] for one in web.got] == [web.got[0]["id"]] * 2


def test_a_mail_says_it_too_and_no_header_can_be_smuggled_in(home: Path, mails: Mails) -> None:
    mail = {"kind": "email", "host": "127.0.0.1", "port": mails.port, "starttls": False, "sender": "us@example.test",
            "to": ["ops@example.test"]}  # fmt: skip
    desk = Desk(home, mail=mail)
    assert desk.look(0, replace(LATE, tenant="acme\r\nBcc: all@example.test", what="a\x1b[2J\nb")) == {}
    desk.look(1, replace(LATE, tenant="acme\r\nBcc: all@example.test"))
    (got,) = mails.got
    assert (got["Subject"], got["To"], got["Bcc"]) == (
        "[warn] table_late: acme Bcc: all@example.test", "ops@example.test", None
    )  # fmt: skip
    assert str(got.get_payload()).splitlines()[1] == "a [2J b"
    assert str(got["Message-ID"]).endswith("@example.test>")


def test_a_secret_is_sent_and_stands_nowhere_else(home: Path, web: Web) -> None:
    desk = Desk(home, ops=hook(web, token_from="TOKEN"), blind={"kind": "webhook", "url_from": "EMPTY"}, log={"kind": "log"})
    said = desk.look(0, LATE)
    assert web.tokens == ["Bearer hush-hush"]
    assert said == {"blind": "the environment variable EMPTY is not set"}
    web.answer = 500
    desk.declare(ops=hook(web, token_from="TOKEN"), bad={"kind": "webhook", "url_from": "TOKEN"}, log={"kind": "log"})
    said = desk.look(1, of("globex"))
    assert said["bad"] == "what TOKEN holds is no address; begin it with https://"
    assert "hush" not in f"{said} {(home / 'alerts.log').read_text()} {desk.alerts()}"


def test_a_channel_that_comes_later_is_not_told_the_past(home: Path, web: Web) -> None:
    desk = Desk(home, log={"kind": "log"})
    desk.look(0, LATE)
    desk.declare(log={"kind": "log"}, ops=hook(web))
    desk.look(1, LATE, of("globex"))
    assert [one["tenants"] for one in web.got] == [["globex"]]


def test_what_is_over_and_told_leaves_after_three_months(home: Path, web: Web) -> None:
    desk = Desk(home, ops=hook(web))
    desk.look(0, LATE)
    desk.look(1)
    days = timedelta(days=90) / timedelta(minutes=1)
    desk.look(1 + days - 1)
    assert len(desk.alerts()) == 1
    desk.look(1 + days)
    assert desk.alerts() == []

"""What holds for the package as a whole."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from scrapy import Request
from scrapy.settings import Settings

from scrapy_ezcaptcha import Addon, EzCaptchaMiddleware
from scrapy_ezcaptcha.config import Config
from scrapy_ezcaptcha.crawl.memo import Memo
from scrapy_ezcaptcha.solving.replay import Replayer, replay_of

PATH = "scrapy_ezcaptcha.EzCaptchaMiddleware"


def test_importing_it_installs_no_reactor():
    code = (
        "import sys, scrapy_ezcaptcha, scrapy_ezcaptcha.sandbox;"
        "sys.exit('twisted.internet.reactor' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("given", "order"),
    [({}, 585), ({PATH: 600}, 600), ({EzCaptchaMiddleware: 1}, 1), ({PATH: None}, None)],
)
def test_the_addon_puts_the_middleware_in_unless_the_user_did(given, order):
    settings = Settings({"DOWNLOADER_MIDDLEWARES": given})
    Addon().update_settings(settings)
    (placed,) = settings.getdict("DOWNLOADER_MIDDLEWARES").items()
    assert placed[1] == order


def request(meta=None):
    return Request("http://shop.example/", meta={"mine": 1, **(meta or {})}, priority=3)


def test_a_replay_is_a_copy_and_leaves_the_original_alone():
    original = request()
    replay = replay_of(original, Memo("shop.example", attempts=1))
    assert (replay.priority, replay.dont_filter, replay.meta["mine"]) == (3, True, 1)
    assert Memo.on(replay).attempts == 1
    assert original.meta == {"mine": 1}
    assert not original.dont_filter


def test_a_memo_of_another_zone_does_not_count():
    replay = replay_of(request(), Memo("shop.example", attempts=1))
    redirected = replay.replace(url="http://other.example/")
    assert Memo.on(redirected) == Memo("other.example")


def test_a_request_that_comes_back_to_an_ending_crawl_is_not_put_back_again():
    ending, resumed = (Replayer(None, None, None, None, None, None, Config()) for _ in range(2))
    put_back = ending.put_back(request())
    assert ending.put_back(put_back) is None
    assert resumed.put_back(put_back) is not None


def test_what_was_tried_in_another_run_does_not_count():
    """Its clearances are gone with it."""
    ending, resumed = (Replayer(None, None, None, None, None, None, Config()) for _ in range(2))
    tried = replay_of(request(), Memo("shop.example", 2, 2, "task7", ending.run))
    assert ending.memo_on(tried).attempts == 2
    assert ending.memo_on(ending.put_back(tried)) == Memo(
        "shop.example", 2, 2, None, ending.run, is_put_back=True
    )
    assert resumed.memo_on(tried) == Memo("shop.example", run=resumed.run)


def test_what_was_tried_by_others_who_share_the_store_counts():
    """And what another run put back when it ended may be put back by this one too."""
    ours, theirs = (
        Replayer(None, None, None, None, None, None, Config(store_url="redis://clearances.example"))
        for _ in range(2)
    )
    elsewhere = Replayer(
        None, None, None, None, None, None, Config(store_url="redis://other.example")
    )
    tried = replay_of(request(), replace(theirs.memo_on(request()), attempts=2, solves=2))
    assert ours.memo_on(tried).attempts == 2
    assert elsewhere.memo_on(tried).attempts == 0
    put_back = theirs.put_back(tried)
    assert theirs.put_back(put_back) is None
    assert ours.put_back(put_back) is not None


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"zone": "shop.example", "of_tomorrow": 1},
        {"zone": "shop.example", "seen": ["task1", 2]},
        {"zone": "shop.example", "given_up": ["http://shop.example/"]},
        ["zone"],
        None,
    ],
)
def test_foreign_data_in_the_meta_counts_as_no_memo(odd):
    assert Memo.on(request({"_ezcaptcha": odd})) == Memo("shop.example")


def test_a_copy_of_a_given_up_request_keeps_its_attempts_only_for_the_same_url():
    given_up = request()
    Memo("shop.example", 2, 2, given_up=given_up.url).put_on(given_up)
    assert Memo.on(given_up.copy()).attempts == 2
    assert Memo.on(given_up.replace(url="http://shop.example/other")) == Memo("shop.example")

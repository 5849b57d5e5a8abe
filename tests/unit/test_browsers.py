from __future__ import annotations

import pytest
from scrapy.settings import Settings

from scrapy_ezcaptcha.clearances import browsers
from scrapy_ezcaptcha.clearances.browsers import impersonation_advice, nearest

KNOWN = {"chrome99", "chrome133a", "chrome146", "chrome150", "chrome131_android", "firefox133"}
HANDLERS = {"https": "scrapy_impersonate.ImpersonateDownloadHandler"}


@pytest.mark.parametrize(
    ("browser", "played"),
    [
        ("chrome146", "chrome146"),
        ("chrome149", "chrome146"),
        ("chrome140", "chrome133a"),
        ("chrome200", "chrome150"),
        ("chrome98", None),
        ("chrome140_android", "chrome131_android"),
        ("chrome140_ios", None),
        ("firefox140", "firefox133"),
        ("edge101", None),
        ("safari17_0", None),
        ("netscape4", None),
        ("", None),
        (None, None),
    ],
)
def test_the_nearest_older_version_of_the_same_browser(browser, played):
    assert nearest(browser, KNOWN) == played


@pytest.mark.parametrize(
    ("known", "handlers", "options", "words"),
    [
        (
            (),
            {},
            ("chrome146", False),
            "EZCAPTCHA_IMPERSONATE=True (now it is not installed)",
        ),
        (KNOWN, {}, ("chrome146", True), "(now it is not in DOWNLOAD_HANDLERS)"),
        (KNOWN, HANDLERS, ("chrome146", False), "(now EZCAPTCHA_IMPERSONATE is False)"),
        (KNOWN, HANDLERS, (None, True), "the service names no browser"),
        (KNOWN, HANDLERS, ("chrome98", True), "does not know chrome98"),
        (KNOWN, HANDLERS, ("chrome149", True), "already imitates chrome146, in place of chrome149"),
        (KNOWN, HANDLERS, ("chrome146", True), "already imitates chrome146"),
    ],
)
def test_what_stands_in_the_way_is_said(monkeypatch, known, handlers, options, words):
    monkeypatch.setattr(browsers, "known_browsers", lambda: frozenset(known))
    settings = Settings({"DOWNLOAD_HANDLERS": handlers})
    assert words in impersonation_advice(settings, options[0], is_on=options[1])

from __future__ import annotations

import pytest

from scrapy_ezcaptcha.breaker import Breaker
from scrapy_ezcaptcha.clearance import Clearance, whole
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.holdings import Holdings, Rejection
from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.stores import MemoryStore

EXIT = Exit.parse("http://u:p@proxy.example:1")
ZONE = "shop.example"
ALL = whole(ZONE)
WWW, API, ADMIN = (f"{name}.{ZONE}" for name in ("www", "api", "admin"))


@pytest.fixture
def holdings():
    return Holdings(MemoryStore())


def clearance(serial, scope=ALL, exit=EXIT):
    return Clearance(ZONE, scope, exit, serial, {"user-agent": "UA"}, {"cf_clearance": "c"})


def test_a_clearance_serves_its_zone_by_its_exit(holdings):
    one = clearance(1)
    holdings.add(one)
    assert holdings.find(ZONE, WWW, EXIT) is one
    assert holdings.find(ZONE, API, EXIT) is one
    assert holdings.find(ZONE, WWW, Exit.parse("http://other:p@proxy.example:1")) is None
    assert holdings.find("other.example", "other.example", EXIT) is None
    assert holdings.has_zone(ZONE)
    assert not holdings.has_zone("other.example")


def test_a_rejection_counts_once_however_many_answers_come(holdings):
    one = clearance(1)
    holdings.add(one)
    holdings.accept(WWW, one)
    assert holdings.reject(WWW, one) is Rejection.EXPIRED
    assert [holdings.reject(WWW, one) for _ in range(5)] == [Rejection.STALE] * 5
    assert holdings.find(ZONE, WWW, EXIT) is None
    assert not holdings.has_zone(ZONE)


def test_a_late_rejection_does_not_touch_the_successor(holdings):
    one, two = clearance(1), clearance(2)
    holdings.add(one)
    holdings.reject(WWW, one)
    holdings.add(two)
    assert holdings.reject(WWW, one) is Rejection.STALE
    assert holdings.find(ZONE, WWW, EXIT) is two


def test_one_that_nobody_ever_accepted_is_told_from_one_that_wore_out(holdings):
    one = clearance(1)
    holdings.add(one)
    assert not holdings.has_served(one)
    assert holdings.reject(WWW, one) is Rejection.UNUSED
    two = clearance(2)
    holdings.add(two)
    assert holdings.accept(WWW, two) is True
    assert holdings.accept(API, two) is False
    assert holdings.has_served(two)
    assert holdings.reject(API, two) is Rejection.EXPIRED


def test_a_host_that_alone_rejects_gets_its_own_and_the_zone_keeps_its(holdings):
    one = clearance(1)
    holdings.add(one)
    holdings.accept(WWW, one)
    assert holdings.reject(ADMIN, one) is Rejection.APART
    assert holdings.scope(ZONE, ADMIN, EXIT) == ADMIN
    assert holdings.scope(ZONE, WWW, EXIT) == ALL
    assert holdings.find(ZONE, ADMIN, EXIT) is None
    assert holdings.find(ZONE, WWW, EXIT) is one
    own = clearance(2, ADMIN)
    holdings.add(own)
    holdings.accept(ADMIN, own)
    assert holdings.find(ZONE, ADMIN, EXIT) is own
    assert holdings.find(ZONE, WWW, EXIT) is one
    assert holdings.reject(ADMIN, own) is Rejection.EXPIRED
    assert holdings.find(ZONE, WWW, EXIT) is one


def test_the_bare_domain_may_be_set_apart_too(holdings):
    one = clearance(1)
    holdings.add(one)
    holdings.accept(WWW, one)
    assert holdings.reject(ZONE, one) is Rejection.APART
    assert holdings.find(ZONE, ZONE, EXIT) is None
    assert holdings.find(ZONE, WWW, EXIT) is one


def test_after_an_expiry_the_newer_clearance_of_a_host_set_apart_is_tried_on_the_zone(holdings):
    """API was the first to notice that the zone's clearance had expired."""
    one = clearance(1)
    holdings.add(one)
    holdings.accept(WWW, one)
    assert holdings.reject(API, one) is Rejection.APART
    own = clearance(2, API)
    holdings.add(own)
    holdings.accept(API, own)
    assert holdings.reject(WWW, one) is Rejection.EXPIRED
    lent = holdings.find(ZONE, WWW, EXIT)
    assert lent.serial == own.serial  # at no cost
    assert holdings.scope(ZONE, API, EXIT) == ALL  # no longer apart
    holdings.accept(WWW, lent)
    assert holdings.reject(API, lent) is Rejection.EXPIRED


def test_a_lender_whose_clearance_the_zone_rejects_stays_apart_for_good(holdings):
    one = clearance(1)
    holdings.add(one)
    holdings.accept(WWW, one)
    holdings.reject(ADMIN, one)
    own = clearance(2, ADMIN)
    holdings.add(own)
    holdings.accept(ADMIN, own)
    holdings.reject(WWW, one)
    lent = holdings.find(ZONE, WWW, EXIT)
    assert lent.serial == 2
    assert holdings.reject(WWW, lent) is Rejection.EXPIRED
    assert holdings.find(ZONE, WWW, EXIT) is None
    assert holdings.find(ZONE, ADMIN, EXIT).serial == 2  # it has its own back
    three = clearance(3)
    holdings.add(three)
    holdings.accept(WWW, three)
    holdings.add(clearance(4, ADMIN))
    holdings.accept(ADMIN, clearance(4, ADMIN))
    holdings.reject(WWW, three)
    assert holdings.find(ZONE, WWW, EXIT) is None  # not lent again


def test_a_rejection_of_a_lent_clearance_in_its_old_scope_still_counts(holdings):
    one = clearance(1)
    holdings.add(one)
    holdings.accept(WWW, one)
    holdings.reject(API, one)
    own = clearance(2, API)
    holdings.add(own)
    holdings.accept(API, own)
    holdings.reject(WWW, one)  # lends API's to the zone
    assert holdings.reject(API, own) is Rejection.EXPIRED
    assert holdings.find(ZONE, API, EXIT) is None


def test_renewed_cookies_are_kept_only_while_the_clearance_is(holdings):
    one = clearance(1)
    holdings.add(one)
    newer = Clearance(ZONE, ALL, EXIT, 1, one.headers, {"cf_clearance": "newer"})
    holdings.renew(newer)
    assert holdings.find(ZONE, WWW, EXIT) is newer
    two = clearance(2)
    holdings.add(two)
    holdings.renew(newer)
    assert holdings.find(ZONE, WWW, EXIT) is two


def test_the_least_recently_used_goes_first_and_memory_is_bounded():
    store = MemoryStore(capacity=3)
    exits = [Exit.parse(f"http://u{number}:p@proxy.example:1") for number in range(4)]
    for number, exit in enumerate(exits[:3]):
        store.put(clearance(number, exit=exit))
    assert store.get(ALL, exits[0]) is not None  # used: now the newest
    store.put(clearance(3, exit=exits[3]))
    assert len(store) == 3
    assert store.get(ALL, exits[1]) is None
    assert store.get(ALL, exits[0]) is not None
    for exit in exits:
        store.remove(ALL, exit)
    assert len(store) == 0
    assert not store.has_zone(ZONE)


def test_a_hundred_thousand_exits_do_not_grow_without_end():
    holdings = Holdings(MemoryStore())
    for number in range(100_000):
        exit = Exit("http", "proxy.example", 1, f"user{number}", "p")
        one = clearance(number, exit=exit)
        holdings.add(one)
        holdings.accept(WWW, one)
        if number % 3 == 0:
            holdings.reject(ADMIN, one)
    assert len(holdings._store) == 10_000
    assert len(holdings._accepted) == 10_000
    assert len(holdings._apart) == 10_000


def test_lru():
    lru = Lru(2)
    assert lru.put("a", 1) is None
    assert lru.put("b", 2) is None
    assert lru.get("a") == 1
    assert lru.put("c", 3) == 2
    assert (lru.get("b"), lru.get("a"), lru.pop("a"), lru.pop("a"), len(lru)) == (
        None,
        1,
        1,
        None,
        1,
    )


def test_the_breaker_opens_after_so_many_failures_in_a_row():
    breaker = Breaker(3, 300)
    assert [breaker.failed(ZONE, now) for now in (1, 2, 3)] == [False, False, True]
    assert breaker.is_open(ZONE, 302)
    assert not breaker.is_open(ZONE, 303)
    assert not breaker.is_open("other.example", 4)


def test_an_acceptance_closes_the_breaker():
    breaker = Breaker(3, 300)
    breaker.failed(ZONE, 1)
    breaker.failed(ZONE, 1)
    breaker.accepted(ZONE)
    assert breaker.failed(ZONE, 1) is False
    assert not breaker.is_open(ZONE, 1)


def test_after_the_pause_one_more_failure_opens_it_again_at_once():
    breaker = Breaker(3, 300)
    for now in (1, 2, 3):
        breaker.failed(ZONE, now)
    assert breaker.failed(ZONE, 4) is False  # a late failure does not lengthen the pause
    assert not breaker.is_open(ZONE, 303)
    assert breaker.failed(ZONE, 304) is True
    assert breaker.is_open(ZONE, 603)

from __future__ import annotations

import pytest

from scrapy_ezcaptcha.breaker import Breaker
from scrapy_ezcaptcha.clearance import Clearance
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.holdings import Holdings, Rejection
from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.stores import Held, MemoryStore

EXIT = Exit.parse("http://u:p@proxy.example:1")
ZONE = "shop.example"
WWW, API, ADMIN = (f"{name}.{ZONE}" for name in ("www", "api", "admin"))


@pytest.fixture
def holdings():
    return Holdings(MemoryStore())


def clearance(number, exit=EXIT, origin=WWW, zone=ZONE):
    task_id = f"task{number}"
    return Clearance(zone, origin, exit, task_id, {"user-agent": "UA"}, {"cf_clearance": "c"})


def held(holdings, number, origin=WWW, accepted_by=()):
    """Let the holdings have a clearance that some hosts accepted."""
    one = clearance(number, origin=origin)
    holdings.add(one)
    for host in accepted_by:
        holdings.accept(host, one)
    return one


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


def test_what_another_process_found_worn_out_was_of_use(holdings):
    one, two = clearance(1), clearance(2)
    for each, unused in ((one, False), (two, True)):
        holdings.add(each)
        holdings._store.reject(each.place, each.id, unused=unused)
    assert (holdings.has_served(one), holdings.has_served(two)) == (True, False)
    assert holdings.reject(WWW, one) is Rejection.STALE


def test_a_late_rejection_does_not_touch_the_successor(holdings):
    one, two = clearance(1), clearance(2)
    holdings.add(one)
    holdings.reject(WWW, one)
    holdings.add(two)
    assert holdings.reject(WWW, one) is Rejection.STALE
    assert holdings.find(ZONE, WWW, EXIT) is two


def test_one_that_nobody_ever_accepted_is_told_from_one_that_wore_out(holdings):
    one = held(holdings, 1)
    assert not holdings.has_served(one)
    assert holdings.reject(WWW, one) is Rejection.UNUSED
    two = held(holdings, 2)
    assert holdings.accept(WWW, two) is True
    assert holdings.accept(API, two) is False
    assert holdings.reject(API, two) is Rejection.EXPIRED
    assert holdings.has_served(two)  # although it is gone


def test_a_host_that_alone_refuses_gets_its_own_and_the_zone_keeps_its(holdings):
    one = held(holdings, 1, accepted_by=[WWW])
    assert holdings.reject(ADMIN, one) is Rejection.REFUSED
    assert holdings.find(ZONE, ADMIN, EXIT) is None
    assert holdings.find(ZONE, WWW, EXIT) is one
    own = held(holdings, 2, ADMIN, accepted_by=[ADMIN])
    for _ in range(3):
        assert holdings.find(ZONE, ADMIN, EXIT) is own
        assert holdings.find(ZONE, WWW, EXIT) is one
    assert holdings.reject(ADMIN, own) is Rejection.EXPIRED
    assert holdings.find(ZONE, WWW, EXIT) is one
    assert holdings.find(ZONE, ADMIN, EXIT) is None


def test_when_the_zones_has_expired_the_newer_one_of_another_host_is_tried_first(holdings):
    """API was the first to notice that the zone's clearance had expired."""
    one = held(holdings, 1, accepted_by=[WWW])
    assert holdings.reject(API, one) is Rejection.REFUSED
    two = held(holdings, 2, API, accepted_by=[API])
    assert holdings.find(ZONE, WWW, EXIT) is one
    assert holdings.reject(WWW, one) is Rejection.EXPIRED
    assert holdings.find(ZONE, WWW, EXIT) is two  # at no cost


def test_if_the_odd_host_came_first_the_others_share_what_the_second_got(holdings):
    one = held(holdings, 1, ADMIN, accepted_by=[ADMIN])
    assert holdings.reject(WWW, one) is Rejection.REFUSED
    two = held(holdings, 2, WWW, accepted_by=[WWW])
    first = holdings.find(ZONE, API, EXIT)
    if first is one:
        assert holdings.reject(API, one) is Rejection.REFUSED
    assert holdings.find(ZONE, API, EXIT) is two
    assert holdings.find(ZONE, ADMIN, EXIT) is one


def test_before_anybody_accepted_it_only_the_host_it_was_solved_for_can_drop_it(holdings):
    one = held(holdings, 1)
    for host in (ADMIN, API):
        assert holdings.reject(host, one) is Rejection.REFUSED
        assert holdings.reject(host, one) is Rejection.STALE
        assert holdings.find(ZONE, host, EXIT) is None
    assert holdings.find(ZONE, WWW, EXIT) is one
    assert holdings.reject(WWW, one) is Rejection.UNUSED
    assert holdings.find(ZONE, WWW, EXIT) is None


def test_a_host_tries_two_of_its_siblings_then_wants_its_own(holdings):
    hosts = [f"h{number}.{ZONE}" for number in range(5)]
    clearances = [
        held(holdings, number, host, accepted_by=[host]) for number, host in enumerate(hosts)
    ]
    for _ in range(2):
        tried = holdings.find(ZONE, API, EXIT)
        assert tried in clearances
        assert holdings.reject(API, tried) is Rejection.REFUSED
    assert holdings.find(ZONE, API, EXIT) is None
    own = held(holdings, 9, API)
    assert holdings.find(ZONE, API, EXIT) is own
    assert [holdings.find(ZONE, host, EXIT) for host in hosts] == clearances


def test_renewed_cookies_are_kept_only_while_the_clearance_is(holdings):
    one = clearance(1)
    holdings.add(one)
    newer = Clearance(ZONE, WWW, EXIT, one.id, one.headers, {"cf_clearance": "newer"})
    holdings.renew(newer)
    assert holdings.find(ZONE, WWW, EXIT) is newer
    holdings.reject(WWW, newer)
    holdings.renew(newer)
    assert holdings.find(ZONE, WWW, EXIT) is None


def test_the_least_recently_used_goes_first_and_memory_is_bounded():
    store = MemoryStore(capacity=3)
    exits = [Exit.parse(f"http://u{number}:p@proxy.example:1") for number in range(4)]
    for number, exit in enumerate(exits[:3]):
        store.put(Held(clearance(number, exit=exit)))
    assert store.held((ZONE, exits[0]))  # used: now the newest
    store.put(Held(clearance(3, exit=exits[3])))
    assert len(store) == 3
    assert not store.held((ZONE, exits[1]))
    assert store.held((ZONE, exits[0]))
    for exit in exits:
        for one in list(store.held((ZONE, exit))):
            store.reject((ZONE, exit), one.clearance.id)
    assert len(store) == 0
    assert not store.has_zone(ZONE)


def test_the_clearances_of_one_zone_and_exit_are_bounded_too():
    store = MemoryStore()
    for number in range(1000):
        store.put(Held(clearance(number)))
    kept = [one.clearance.id for one in store.held((ZONE, EXIT))]
    assert kept == [f"task{number}" for number in range(900, 1000)]


def test_a_hundred_thousand_zones_and_exits_do_not_grow_without_end():
    holdings = Holdings(MemoryStore())
    for number in range(100_000):
        exit = Exit("http", "proxy.example", 1, f"user{number}", "p")
        one = clearance(number, exit=exit, zone=f"{number % 500}.example")
        holdings.add(one)
        holdings.accept(WWW, one)
        if number % 3 == 0:
            holdings.reject(ADMIN, one)
    assert len(holdings._store) == 10_000
    assert len(holdings._served) == 10_000
    assert sum(holdings._store._zones.values()) == 10_000


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


def test_a_suspect_counts_where_another_solve_would_be_one_too_many():
    breaker = Breaker(3, 300)
    assert not breaker.is_open(ZONE, 0, suspects=2)
    assert breaker.is_open(ZONE, 0, suspects=3)
    breaker.failed(ZONE, 0)
    breaker.failed(ZONE, 0)
    assert not breaker.is_open(ZONE, 0)
    assert breaker.is_open(ZONE, 0, suspects=1)


def test_a_suspect_is_refused_by_some_and_accepted_by_none(holdings):
    one = held(holdings, 1)
    assert holdings.suspects(ZONE, EXIT) == 0
    holdings.reject(API, one)
    assert holdings.suspects(ZONE, EXIT) == 1
    holdings.accept(WWW, one)
    assert holdings.suspects(ZONE, EXIT) == 0


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

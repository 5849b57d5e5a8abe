from __future__ import annotations

import pytest

from scrapy_ezcaptcha.clearances.clearance import Clearance
from scrapy_ezcaptcha.clearances.known import FIRST, USELESS, KnownClearances, Record
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.solving.breaker import Breaker

EXIT = Exit.parse("http://u:p@proxy.example:1")
ZONE = "shop.example"
WWW, API, ADMIN = (f"{name}.{ZONE}" for name in ("www", "api", "admin"))


@pytest.fixture
def known():
    return KnownClearances()


def clearance(number, exit=EXIT, origin=WWW, zone=ZONE):
    task_id = f"task{number}"
    return Clearance(zone, origin, exit, task_id, {"user-agent": "UA"}, {"cf_clearance": "c"})


def held(known, number, origin=WWW, accepted_by=()):
    """Let it know a clearance that some hosts accepted."""
    one = clearance(number, origin=origin)
    known.add(one)
    for host in accepted_by:
        known.accept(host, one)
    return one


def test_a_clearance_serves_its_zone_by_its_exit(known):
    one = clearance(1)
    known.add(one)
    assert known.find(ZONE, WWW, EXIT) is one
    assert known.find(ZONE, API, EXIT) is one
    assert known.find(ZONE, WWW, Exit.parse("http://other:p@proxy.example:1")) is None
    assert known.find("other.example", "other.example", EXIT) is None
    assert known.has_zone(ZONE)
    assert not known.has_zone("other.example")


def test_a_rejection_counts_once_however_many_answers_come(known):
    one = clearance(1)
    known.add(one)
    known.accept(WWW, one)
    assert known.reject(WWW, one)[0] == "rejected"
    assert [known.reject(WWW, one) for _ in range(5)] == [None] * 5
    assert known.find(ZONE, WWW, EXIT) is None
    assert not known.has_zone(ZONE)


def test_what_another_process_found_worn_out_was_of_use(known):
    one, two = clearance(1), clearance(2)
    for each, unused in ((one, False), (two, True)):
        known.add(each)
        known.learn(each.place, [], {each.id: unused})
    assert (known.has_served(one), known.has_served(two)) == (True, False)
    assert known.reject(WWW, one) is None


def test_a_late_rejection_does_not_touch_the_successor(known):
    one, two = clearance(1), clearance(2)
    known.add(one)
    known.reject(WWW, one)
    known.add(two)
    assert known.reject(WWW, one) is None
    assert known.find(ZONE, WWW, EXIT) is two


def test_one_that_nobody_ever_accepted_is_told_from_one_that_wore_out(known):
    one = held(known, 1)
    assert not known.has_served(one)
    assert known.reject(WWW, one) is USELESS
    two = held(known, 2)
    assert known.accept(WWW, two) is True
    assert known.accept(API, two) is False
    assert known.reject(API, two)[0] == "rejected"
    assert known.has_served(two)  # although it is gone


def test_a_host_that_alone_refuses_gets_its_own_and_the_zone_keeps_its(known):
    one = held(known, 1, accepted_by=[WWW])
    assert known.reject(ADMIN, one)[0] == "host"
    assert known.find(ZONE, ADMIN, EXIT) is None
    assert known.find(ZONE, WWW, EXIT) is one
    own = held(known, 2, ADMIN, accepted_by=[ADMIN])
    for _ in range(3):
        assert known.find(ZONE, ADMIN, EXIT) is own
        assert known.find(ZONE, WWW, EXIT) is one
    assert known.reject(ADMIN, own)[0] == "rejected"
    assert known.find(ZONE, WWW, EXIT) is one
    assert known.find(ZONE, ADMIN, EXIT) is None


def test_when_the_zones_has_expired_the_newer_one_of_another_host_is_tried_first(known):
    """API was the first to notice that the zone's clearance had expired."""
    one = held(known, 1, accepted_by=[WWW])
    assert known.reject(API, one)[0] == "host"
    two = held(known, 2, API, accepted_by=[API])
    assert known.find(ZONE, WWW, EXIT) is one
    assert known.reject(WWW, one)[0] == "rejected"
    assert known.find(ZONE, WWW, EXIT) is two  # at no cost


def test_if_the_odd_host_came_first_the_others_share_what_the_second_got(known):
    one = held(known, 1, ADMIN, accepted_by=[ADMIN])
    assert known.reject(WWW, one)[0] == "host"
    two = held(known, 2, WWW, accepted_by=[WWW])
    first = known.find(ZONE, API, EXIT)
    if first is one:
        assert known.reject(API, one)[0] == "host"
    assert known.find(ZONE, API, EXIT) is two
    assert known.find(ZONE, ADMIN, EXIT) is one


def test_before_anybody_accepted_it_only_the_host_it_was_solved_for_can_drop_it(known):
    one = held(known, 1)
    for host in (ADMIN, API):
        assert known.reject(host, one)[0] == "host"
        assert known.reject(host, one) is None
        assert known.find(ZONE, host, EXIT) is None
    assert known.find(ZONE, WWW, EXIT) is one
    assert known.reject(WWW, one) is USELESS
    assert known.find(ZONE, WWW, EXIT) is None


def test_a_host_tries_two_of_its_siblings_then_wants_its_own(known):
    hosts = [f"h{number}.{ZONE}" for number in range(5)]
    clearances = [
        held(known, number, host, accepted_by=[host]) for number, host in enumerate(hosts)
    ]
    for _ in range(2):
        tried = known.find(ZONE, API, EXIT)
        assert tried in clearances
        assert known.reject(API, tried)[0] == "host"
    assert known.find(ZONE, API, EXIT) is None
    own = held(known, 9, API)
    assert known.find(ZONE, API, EXIT) is own
    assert [known.find(ZONE, host, EXIT) for host in hosts] == clearances


def test_renewed_cookies_are_kept_only_while_the_clearance_is(known):
    one = clearance(1)
    known.add(one)
    newer = Clearance(ZONE, WWW, EXIT, one.id, one.headers, {"cf_clearance": "newer"})
    known.renew(newer)
    assert known.find(ZONE, WWW, EXIT) is newer
    known.reject(WWW, newer)
    known.renew(newer)
    assert known.find(ZONE, WWW, EXIT) is None


def test_the_least_recently_used_goes_first_and_memory_is_bounded():
    known = KnownClearances(capacity=3)
    exits = [Exit.parse(f"http://u{number}:p@proxy.example:1") for number in range(4)]
    for number, exit in enumerate(exits[:3]):
        known.add(clearance(number, exit=exit))
    assert known.records((ZONE, exits[0]))  # used: now the newest
    known.add(clearance(3, exit=exits[3]))
    assert len(known) == 3
    assert not known.records((ZONE, exits[1]))
    assert known.records((ZONE, exits[0]))
    for exit in exits:
        for record in list(known.records((ZONE, exit))):
            known.accept(WWW, record.clearance)
            known.reject(WWW, record.clearance)
    assert len(known) == 0
    assert not known.has_zone(ZONE)


def test_the_clearances_of_one_zone_and_exit_are_bounded_too(known):
    for number in range(1000):
        known.add(clearance(number))
    kept = [record.clearance.id for record in known.records((ZONE, EXIT))]
    assert kept == [f"task{number}" for number in range(900, 1000)]


def test_a_hundred_thousand_zones_and_exits_do_not_grow_without_end(known):
    def one(number):
        exit = Exit("http", "proxy.example", 1, f"user{number}", "p")
        return clearance(number, exit=exit, zone=f"{number % 500}.example")

    for number in range(100_000):
        known.add(one(number))
        known.accept(WWW, one(number))
        if number % 3 == 0:
            known.reject(ADMIN, one(number))
    assert len(known) == 10_000
    remembered = [number for number in range(100_000) if known.has_served_here(one(number))]
    assert remembered == list(range(90_000, 100_000))
    assert all(known.has_zone(f"{number}.example") for number in range(500))
    for number in range(90_000, 100_000):
        known.reject(WWW, one(number))
    assert not any(known.has_zone(f"{number}.example") for number in range(500))


def test_why_a_task_is_bought(known):
    place = (ZONE, EXIT)
    assert known.reason_for(WWW, place) is FIRST
    one = held(known, 1)
    for _ in range(3):
        known.accept(WWW, one)
    known.reject(ADMIN, one)
    assert known.reason_for(ADMIN, place) == ("host", f"{ADMIN} refuses the clearances of the zone")
    known.reject(WWW, one)
    assert known.reason_for(WWW, place) == (
        "rejected",
        "the last clearance was rejected after serving 3 pages",
    )
    known.reject(WWW, held(known, 2))
    assert known.reason_for(WWW, place)[0] == "useless"
    known.solve_failed(place, "SOLVE_TIMEOUT")
    assert known.reason_for(WWW, place)[1] == "the last solve failed (SOLVE_TIMEOUT)"
    three = held(known, 3)
    known.learn(place, [], {three.id: False})
    assert known.reason_for(WWW, place)[0] == "rejected_elsewhere"


def test_changes_are_taken_once_and_can_be_given_back():
    known = KnownClearances(keeps_changes=True)
    one = held(known, 1, accepted_by=[WWW])
    changes = known.take_changes()
    assert known.take_changes() == {}
    (change,) = changes.values()
    assert (change.clearance, change.accepted) == (one, {WWW})
    known.return_changes(changes)
    known.reject(WWW, one)
    assert known.take_changes() == {((ZONE, EXIT), one.id): False}


def test_what_others_know_does_not_undo_what_is_newer_here():
    known = KnownClearances(keeps_changes=True)
    one = held(known, 1)
    older = Clearance(ZONE, WWW, EXIT, one.id, one.headers, {"cf_clearance": "older"})
    assert known.learn(one.place, [Record(older)], {}) == ([], [])
    assert known.find(ZONE, WWW, EXIT) is one
    known.reject(WWW, one)
    assert known.learn(one.place, [Record(one)], {}) == ([], [])
    assert known.find(ZONE, WWW, EXIT) is None


def test_what_others_know_is_learned_with_who_accepts_it():
    known = KnownClearances(keeps_changes=True)
    one, two = clearance(1), clearance(2)
    learned = known.learn(one.place, [Record(one, accepted={WWW})], {two.id: True})
    assert learned == ([one.id], [two.id])
    assert known.has_served(one)
    assert not known.has_served_here(one)
    assert known.take_changes() == {}  # they know already


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


def test_a_suspect_is_refused_by_some_and_accepted_by_none(known):
    one = held(known, 1)
    assert known.suspects((ZONE, EXIT)) == 0
    known.reject(API, one)
    assert known.suspects((ZONE, EXIT)) == 1
    known.accept(WWW, one)
    assert known.suspects((ZONE, EXIT)) == 0


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

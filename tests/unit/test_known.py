from __future__ import annotations

import pytest

from scrapy_ezcaptcha.clearances.clearance import Clearance
from scrapy_ezcaptcha.clearances.known import FIRST, USELESS, KnownClearances
from scrapy_ezcaptcha.clearances.record import Location, Record, Seen
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


def at(host, path="item"):
    zone = host if host == "other.example" else ZONE
    return Location(host, zone, f"{host}/{path}")


def find(known, host, exit=EXIT, path="item"):
    return known.find(at(host, path), exit)


def accept(known, host, clearance, path="item"):
    """Let *host* answer a request that would have been challenged by its page."""
    known.note_challenge(at(host, path))
    return known.accept(at(host, path), clearance, known.next_number())


def challenge(known, host, clearance, path="item", between=lambda: None):
    """Let *host* challenge a request twice; return what the second one says."""
    known.note_challenge(at(host, path))
    seen = send(known, host, clearance, None, path)
    between()
    return send(known, host, clearance, seen, path) if isinstance(seen, Seen) else seen


def send(known, host, clearance, seen=None, path="item"):
    """Send a request with *clearance*, which is challenged."""
    return known.challenged(at(host, path), clearance, known.next_number(), seen)


def held(known, number, origin=WWW, accepted_by=()):
    """Let it know a clearance that some hosts accepted."""
    one = clearance(number, origin=origin)
    known.add(one, f"{origin}/item")
    for host in accepted_by:
        accept(known, host, one)
    return one


def test_a_clearance_serves_its_zone_by_its_exit(known):
    one = clearance(1)
    known.add(one)
    assert find(known, WWW) is one
    assert find(known, API) is one
    assert find(known, WWW, Exit.parse("http://other:p@proxy.example:1")) is None
    assert find(known, "other.example") is None
    assert known.has_zone(ZONE)
    assert not known.has_zone("other.example")


def test_a_rejection_counts_once_however_many_answers_come(known):
    one = clearance(1)
    known.add(one)
    accept(known, WWW, one)
    assert challenge(known, WWW, one)[0] == "rejected"
    assert [challenge(known, WWW, one) for _ in range(5)] == [None] * 5
    assert find(known, WWW) is None
    assert not known.has_zone(ZONE)


def test_a_clearance_that_expired_in_another_process_was_not_useless(known):
    one, two = clearance(1), clearance(2)
    for each, unused in ((one, False), (two, True)):
        known.add(each)
        known.learn(each.place, [], {each.id: unused})
    assert (known.has_served(one), known.has_served(two)) == (True, False)
    assert challenge(known, WWW, one) is None


def test_a_late_rejection_does_not_touch_the_successor(known):
    one, two = clearance(1), clearance(2)
    known.add(one)
    challenge(known, WWW, one)
    known.add(two)
    assert challenge(known, WWW, one) is None
    assert find(known, WWW) is two


def test_a_useless_clearance_is_distinguished_from_an_expired_one(known):
    one = held(known, 1)
    assert not known.has_served(one)
    assert challenge(known, WWW, one) is USELESS
    two = held(known, 2)
    assert accept(known, WWW, two) is True
    assert accept(known, API, two) is True
    assert challenge(known, API, two)[0] == "rejected"
    assert known.has_served(two)  # although it is gone


def test_a_host_that_alone_refuses_gets_its_own_and_the_zone_keeps_its(known):
    one = held(known, 1, accepted_by=[WWW])
    assert challenge(known, ADMIN, one)[0] == "host"
    assert find(known, ADMIN) is None
    assert find(known, WWW) is one
    own = held(known, 2, ADMIN, accepted_by=[ADMIN])
    for _ in range(3):
        assert find(known, ADMIN) is own
        assert find(known, WWW) is one
    assert challenge(known, ADMIN, own)[0] == "rejected"
    assert find(known, WWW) is one
    assert find(known, ADMIN) is None


def test_when_the_zones_has_expired_the_newer_one_of_another_host_is_tried_first(known):
    """API was the first to notice that the zone's clearance had expired."""
    one = held(known, 1, accepted_by=[WWW])
    assert challenge(known, API, one)[0] == "host"
    two = held(known, 2, API, accepted_by=[API])
    assert find(known, WWW) is one
    assert challenge(known, WWW, one)[0] == "rejected"
    assert find(known, WWW) is two  # at no cost


def test_if_a_host_with_its_own_clearance_came_first_the_others_share_the_second_one(known):
    one = held(known, 1, ADMIN, accepted_by=[ADMIN])
    assert challenge(known, WWW, one)[0] == "host"
    two = held(known, 2, WWW, accepted_by=[WWW])
    first = find(known, API)
    if first is one:
        assert challenge(known, API, one)[0] == "host"
    assert find(known, API) is two
    assert find(known, ADMIN) is one


def test_before_a_host_accepted_it_only_the_host_of_its_solve_can_drop_it(known):
    one = held(known, 1)
    for host in (ADMIN, API):
        assert challenge(known, host, one)[0] == "host"
        assert challenge(known, host, one) is None
        assert find(known, host) is None
    assert find(known, WWW) is one
    assert challenge(known, WWW, one) is USELESS
    assert find(known, WWW) is None


def test_a_host_tries_two_clearances_of_other_hosts_before_its_own(known):
    hosts = [f"h{number}.{ZONE}" for number in range(5)]
    clearances = [
        held(known, number, host, accepted_by=[host]) for number, host in enumerate(hosts)
    ]
    for _ in range(2):
        tried = find(known, API)
        assert tried in clearances
        assert challenge(known, API, tried)[0] == "host"
    assert find(known, API) is None
    own = held(known, 9, API)
    assert find(known, API) is own
    assert [find(known, host) for host in hosts] == clearances


def refused_by_api(known):
    """Two clearances that several hosts accepted, and that API refused after that."""
    clearances = [held(known, number, accepted_by=[WWW, ADMIN]) for number in range(2)]
    for _ in clearances:
        assert challenge(known, API, find(known, API))[0] == "host"
    return clearances


def test_a_host_that_met_two_clearances_as_they_ended_wants_none_of_its_own(known):
    """They have let nobody through since, so the next one is for all who met the same."""
    refused_by_api(known)
    assert find(known, API) is None
    assert known.differs(at(API), (ZONE, EXIT)) is None
    new = held(known, 9, ADMIN)
    assert find(known, API) is new


def test_a_host_that_refused_two_clearances_that_others_still_use_wants_its_own(known):
    for one in refused_by_api(known):
        accept(known, WWW, one)
    assert known.differs(at(API), (ZONE, EXIT)) == API
    new = held(known, 9, ADMIN)
    assert find(known, API) is not new


def test_renewed_cookies_are_kept_only_while_the_clearance_is(known):
    one = held(known, 1)
    known.renew(one, {"cf_clearance": "newer"})
    assert find(known, WWW).cookies == {"cf_clearance": "newer"}
    challenge(known, WWW, find(known, WWW))
    known.renew(one, {"cf_clearance": "newest"})
    assert find(known, WWW) is None


def test_a_renewal_does_not_overwrite_a_newer_one(known):
    one = held(known, 1)
    known.renew(one, {"cf_clearance": "newer"})
    known.renew(one, {"cf_clearance": "of an old answer", "__cf_bm": "bm"})
    assert find(known, WWW).cookies == {"cf_clearance": "newer", "__cf_bm": "bm"}


def test_a_challenge_of_an_old_cookie_says_nothing_about_the_new_one(known):
    one = held(known, 1, accepted_by=[WWW])
    known.renew(one, {"cf_clearance": "newer"})
    assert challenge(known, WWW, one) is None
    assert find(known, WWW).cookies == {"cf_clearance": "newer"}


def test_a_challenged_request_is_sent_once_more_before_anything_is_concluded(known):
    one = held(known, 1, accepted_by=[WWW])
    assert isinstance(send(known, WWW, one), Seen)
    assert find(known, WWW) is one


def test_several_requests_in_a_row_say_the_same_as_one_that_is_sent_again(known):
    one = held(known, 1, accepted_by=[WWW])
    in_flight = [known.next_number() for _ in range(9)]  # before the first challenge
    ends = [known.challenged(at(WWW), one, number, None) for number in in_flight]
    ends += [send(known, WWW, one) for _ in range(3)]
    assert all(isinstance(end, Seen) for end in ends)
    assert send(known, WWW, one)[0] == "rejected"
    assert find(known, WWW) is None


def test_several_hosts_in_a_row_that_never_accepted_it_are_not_each_tried_twice(known):
    one = held(known, 1, accepted_by=[WWW])
    hosts = [f"h{number}.{ZONE}" for number in range(6)]
    ends = [send(known, host, one) for host in hosts]
    assert all(isinstance(end, Seen) for end in ends[:4])
    assert [end[0] for end in ends[4:]] == ["host", "host"]
    assert find(known, hosts[0]) is None  # it is doubtful now
    assert find(known, WWW) is one


def test_a_page_in_between_clears_the_clearance_of_doubt(known):
    one = held(known, 1, accepted_by=[WWW])
    for _ in range(5):
        assert all(isinstance(send(known, WWW, one), Seen) for _ in range(4))
        accept(known, WWW, one)
    assert find(known, WWW) is one


def test_paths_that_never_accepted_it_say_nothing_about_it(known):
    one = held(known, 1, accepted_by=[WWW])
    for _ in range(20):
        assert isinstance(send(known, WWW, one, path="login"), Seen)
    assert find(known, WWW) is one


def test_a_clearance_that_lets_others_through_is_kept_and_the_path_gets_its_own(known):
    one = held(known, 1, accepted_by=[WWW])
    known.note_challenge(at(WWW, "login"))
    seen, times = None, 0
    while seen is None or isinstance(seen, Seen):
        seen, times = send(known, WWW, one, seen, "login"), times + 1
        accept(known, WWW, one)  # sent after the challenge
    assert times == 5
    assert seen == ("path", f"{WWW}/login refuses the clearances of the zone")
    assert find(known, WWW) is one
    assert find(known, WWW, path="login") is None
    assert known.differs(at(WWW, "login"), one.place) == f"{WWW}/login"
    own = clearance(2)
    known.add(own, f"{WWW}/login", f"{WWW}/login")
    assert find(known, WWW, path="login") is own
    assert find(known, WWW) is one


def test_a_page_sent_before_the_challenge_says_nothing_about_the_time_after(known):
    one = held(known, 1, accepted_by=[WWW])
    before = known.next_number()
    late = challenge(known, WWW, one, between=lambda: known.accept(at(WWW), one, before))
    assert late[0] == "rejected"


def test_pages_of_another_process_count_too():
    ours, theirs = KnownClearances(keeps_changes=True), KnownClearances(keeps_changes=True)
    one = held(ours, 1, accepted_by=[WWW])
    theirs.learn(one.place, [Record(one, accepted={WWW})], {})

    def pass_on():
        accept(theirs, WWW, one)
        (record,) = theirs.records(one.place)
        ours.learn(one.place, [record.copy_of(theirs.process)], {})

    assert isinstance(challenge(ours, WWW, one, between=pass_on), Seen)
    assert challenge(ours, WWW, one)[0] == "rejected"


def test_a_page_of_an_open_path_is_no_acceptance(known):
    one = held(known, 1)
    assert known.accept(at(WWW, "open"), one, known.next_number()) is False
    assert not known.has_served(one)
    assert challenge(known, WWW, one) is USELESS


def test_where_nothing_else_is_known_a_new_path_does_not_end_the_zones_clearance(known):
    one = held(known, 1, accepted_by=[WWW])
    assert challenge(known, WWW, one, "login")[0] == "path"
    assert find(known, WWW) is one
    assert known.differs(at(WWW, "login"), one.place) is None  # it may have expired for all
    assert challenge(known, WWW, one)[0] == "rejected"


def test_what_a_challenge_means(known):
    one = held(known, 1)
    assert known.fails(at(WWW), one)
    assert not known.fails(at(API), one)
    accept(known, WWW, one)
    assert not known.fails(at(WWW), one)


def test_the_least_recently_used_goes_first_and_memory_is_bounded():
    known = KnownClearances(capacity=3)
    exits = [Exit.parse(f"http://u{number}:p@proxy.example:1") for number in range(4)]
    for number, exit in enumerate(exits[:3]):
        known.add(clearance(number, exit=exit))
    assert known.records((ZONE, exits[0]))  # used: now the newest
    known.add(clearance(3, exit=exits[3]))
    assert len(known.places(20_000)) == 3
    assert not known.records((ZONE, exits[1]))
    assert known.records((ZONE, exits[0]))
    for exit in exits:
        for record in list(known.records((ZONE, exit))):
            accept(known, WWW, record.clearance)
            challenge(known, WWW, record.clearance)
    assert len(known.places(20_000)) == 0
    assert not known.has_zone(ZONE)


def test_the_clearances_of_one_zone_and_exit_are_bounded_too(known):
    for number in range(2000):
        known.add(clearance(number))
    kept = [record.clearance.id for record in known.records((ZONE, EXIT))]
    assert kept == [f"task{number}" for number in range(1000, 2000)]


@pytest.mark.unmeasured
def test_thirty_thousand_zones_and_exits_do_not_grow_without_end(known):
    def one(number):
        exit = Exit("http", "proxy.example", 1, f"user{number}", "p")
        return clearance(number, exit=exit, zone=f"{number % 500}.example")

    for number in range(30_000):
        known.add(one(number))
        accept(known, WWW, one(number))
        if number % 3 == 0:
            challenge(known, ADMIN, one(number))
    assert len(known.places(20_000)) == 10_000
    remembered = [number for number in range(30_000) if known.has_served_here(one(number))]
    assert remembered == list(range(20_000, 30_000))
    assert all(known.has_zone(f"{number}.example") for number in range(500))
    for number in range(20_000, 30_000):
        challenge(known, WWW, one(number))
    assert not any(known.has_zone(f"{number}.example") for number in range(500))


def test_why_a_task_is_bought(known):
    place = (ZONE, EXIT)
    assert known.reason_for(at(WWW), place) is FIRST
    one = held(known, 1)
    for _ in range(3):
        accept(known, WWW, one)
    challenge(known, ADMIN, one)
    assert known.reason_for(at(ADMIN), place) == (
        "host",
        f"{ADMIN} refuses the clearances of the zone",
    )
    challenge(known, WWW, one)
    assert known.reason_for(at(WWW), place) == (
        "rejected",
        "the last clearance was rejected after 3 pages",
    )
    challenge(known, WWW, held(known, 2))
    assert known.reason_for(at(WWW), place)[0] == "useless"
    known.solve_failed(place, "SOLVE_TIMEOUT")
    assert known.reason_for(at(WWW), place)[1] == "the last solve failed (SOLVE_TIMEOUT)"
    three = held(known, 3)
    known.learn(place, [], {three.id: False})
    assert known.reason_for(at(WWW), place)[0] == "rejected_elsewhere"


def test_changes_are_taken_once_and_can_be_given_back():
    known = KnownClearances(keeps_changes=True)
    one = held(known, 1, accepted_by=[WWW])
    changes = known.take_changes()
    assert known.take_changes() == {}
    (change,) = changes.values()
    assert (change.clearance, change.accepted) == (one, {WWW})
    known.return_changes(changes)
    challenge(known, WWW, one)
    assert known.take_changes() == {((ZONE, EXIT), one.id): False}


def test_what_others_know_does_not_undo_what_is_newer_here():
    known = KnownClearances(keeps_changes=True)
    one, written = held(known, 1), known.number
    known.renew(one, {"cf_clearance": "newer"})
    assert known.learn(one.place, [Record(one)], {}, written) == ([], [])
    assert find(known, WWW).cookies["cf_clearance"] == "newer"
    known.learn(one.place, [Record(one)], {}, known.number)  # another process renewed it
    assert find(known, WWW) is one
    challenge(known, WWW, one)
    assert known.learn(one.place, [Record(one)], {}) == ([], [])
    assert find(known, WWW) is None


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
    challenge(known, API, one)
    assert known.suspects((ZONE, EXIT)) == 1
    accept(known, WWW, one)
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

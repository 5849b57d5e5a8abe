"""Waiting outside the count: whatever happens, Scrapy's own counters are back in the end."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from fakes import LOG, EngineSlot, FakeDownloader, Stats, crawler_with
from hypothesis import given
from hypothesis import strategies as st
from scrapy import Request
from twisted.internet.defer import CancelledError, Deferred

from scrapy_ezcaptcha.crawl.engine import Engine
from scrapy_ezcaptcha.crawl.memo import Memo
from scrapy_ezcaptcha.crawl.put_off import PutOffRequests
from scrapy_ezcaptcha.crawl.waiting import WaitingRequests
from scrapy_ezcaptcha.errors import TooManyWaiting


def downloader_of_two(total_concurrency=16):
    return FakeDownloader(total_concurrency, per_slot=2)


def waiting_with(downloader, limit=1000, engine_slot=None, journal=None):
    crawler = crawler_with(downloader, engine_slot or EngineSlot())
    engine = Engine(crawler, LOG)
    return WaitingRequests(engine, limit, PutOffRequests(engine, Stats(), LOG), journal)


def request(host="shop.example"):
    return Request(f"http://{host}/")


def test_a_waiting_request_raises_the_concurrency_and_makes_its_site_busy():
    downloader, engine_slot, one = downloader_of_two(), EngineSlot(), request()
    with waiting_with(downloader, engine_slot=engine_slot).hold(one) as is_outside:
        assert is_outside
        assert downloader.total_concurrency == 17
        assert downloader.slots["shop.example"].active == {one}
        assert engine_slot.wakes == 1
    assert downloader.total_concurrency == 16
    assert downloader.slots["shop.example"].active == set()


def test_no_limit_stays_no_limit():
    downloader = downloader_of_two(total_concurrency=0)
    with waiting_with(downloader).hold(request()):
        assert downloader.total_concurrency == 0
    assert downloader.total_concurrency == 0


def test_the_counters_are_back_when_the_waiting_fails():
    downloader = downloader_of_two()
    with pytest.raises(ValueError, match="x"), waiting_with(downloader).hold(request()):
        raise ValueError("x")
    assert downloader.total_concurrency == 16
    assert downloader.slots["shop.example"].active == set()


def test_with_a_limit_of_0_requests_wait_inside_the_count():
    downloader = downloader_of_two()
    waiting = waiting_with(downloader, limit=0)
    with waiting.hold(request()) as is_outside:
        assert not is_outside
        assert downloader.total_concurrency == 16


@pytest.mark.parametrize(
    "downloader",
    [None, SimpleNamespace(), SimpleNamespace(_get_slot=lambda request: None, slots={})],
)
def test_another_downloader_means_plain_waiting_said_once(downloader, caplog):
    waiting = waiting_with(downloader)
    for _ in range(3):
        with waiting.hold(request()) as is_outside:
            assert not is_outside
    assert caplog.text.count("so other sites are slower") == 1


def test_another_engine_means_a_slower_start_said_once(caplog):
    waiting = waiting_with(downloader_of_two(), engine_slot=SimpleNamespace())
    for _ in range(3):
        with waiting.hold(request()) as is_outside:
            assert is_outside
    assert caplog.text.count("every five seconds") == 1


class TestClosing:
    """Scrapy sends no signal when closing begins."""

    def is_closing(self, **engine):
        crawler = SimpleNamespace(engine=SimpleNamespace(**engine) if engine else None)
        self.engine = Engine(crawler, LOG)
        return self.engine.is_closing()

    def test_it_is_seen(self):
        slot = EngineSlot()
        assert self.is_closing()
        assert self.is_closing(running=False)
        assert not self.is_closing(running=True, _slot=None)
        assert not self.is_closing(running=True, _slot=slot)
        slot.closing = Deferred()
        assert self.is_closing(running=True, _slot=slot)

    def test_where_this_scrapy_does_not_tell_it_is_said_once(self, caplog):
        assert not self.is_closing(running=True)
        assert not self.engine.is_closing()
        assert caplog.text.count("does not tell when a spider closes") == 1


class Site:
    """A site with waiting requests, which go when they are let go, and leave in the end."""

    def __init__(self, downloader, limit=1000, journal=None):
        self.downloader = downloader
        self.waiting = waiting_with(downloader, limit, journal=journal)
        self.held = 0
        self.order = []

    def wait(self, one):
        """Wait as the broker does, and note who went."""

        async def until_turn():
            with self.waiting.hold(one) as is_outside:
                self.held += is_outside
                try:
                    await self.waiting.until_turn(one)
                finally:
                    self.held -= is_outside

        return self._go(one, until_turn())

    def come(self, one):
        """Come when a solve is over, as a request that would carry its clearance."""
        return self._go(one, self.waiting.until_queue_ends(one))

    def _go(self, one, waiting):
        async def go():
            self.downloader.active.add(one)
            try:
                await waiting
            except CancelledError:
                self.downloader.active.discard(one)
                raise
            self.active_of(one).add(one)
            self.order.append(one)

        return Deferred.fromCoroutine(go())

    def leave(self, one):
        self.waiting.left_downloader(one)
        self.active_of(one).discard(one)
        self.downloader.active.discard(one)

    def active_of(self, one):
        return self.downloader._get_slot(one)[1].active


def test_who_waited_is_let_go_at_the_pace_of_the_slot():
    site = Site(downloader_of_two())
    everybody = [request() for _ in range(5)]
    for one in everybody:
        site.wait(one)
    assert site.order == everybody[:2]  # the slot's concurrency
    for number in range(3):
        site.leave(everybody[number])
        assert site.order == everybody[: number + 3]
    assert site.waiting.is_empty
    assert site.downloader.total_concurrency == 16


def test_many_hosts_are_let_go_at_the_pace_of_the_downloader():
    site = Site(FakeDownloader(total_concurrency=3))
    everybody = [request(f"h{number}.shop.example") for number in range(10)]
    for one in everybody:
        site.wait(one)
    assert site.order == everybody[:3]
    for number in range(7):
        site.waiting.let_go_where_room()
        assert site.order == everybody[: number + 3]
        site.leave(everybody[number])
    assert site.order == everybody
    assert site.waiting.is_empty
    assert site.downloader.total_concurrency == 3


def test_who_leaves_makes_room_even_if_several_leave_before_any_is_gone():
    site = Site(downloader_of_two(total_concurrency=2))
    everybody = [request() for _ in range(5)]
    for one in everybody:
        site.wait(one)
    for one in everybody[:2]:
        site.waiting.left_downloader(one)
    assert site.order == everybody[:4]


def test_the_hosts_take_turns():
    site = Site(FakeDownloader(total_concurrency=1))
    everybody = [request(host) for host in ("a.example", "b.example") for _ in range(3)]
    for one in everybody:
        site.wait(one)
    for number in range(5):
        site.leave(site.order[number])
    hosts = [one.url[7] for one in site.order]
    assert hosts == ["a", "a", "b", "a", "b", "b"]


def test_where_there_is_no_limit_only_the_slots_count():
    site = Site(downloader_of_two(total_concurrency=0))
    everybody = [request(host) for host in ("a.example", "b.example") for _ in range(3)]
    for one in everybody:
        site.wait(one)
    assert site.order == [*everybody[:2], *everybody[3:5]]


def test_a_place_that_nobody_took_is_given_to_the_next():
    site = Site(downloader_of_two())
    everybody = [request() for _ in range(4)]
    going = [site.wait(one) for one in everybody]
    going[2].addErrback(lambda _: None).cancel()
    for one in everybody[:2]:  # lost without a word
        site.active_of(one).discard(one)
        site.downloader.active.discard(one)
    site.waiting.let_go_where_room()
    assert site.order == [*everybody[:2], everybody[3]]
    assert site.waiting.is_empty


def test_who_comes_after_the_solve_goes_after_those_who_waited_and_raises_nothing():
    site = Site(downloader_of_two())
    waited, later = [[request() for _ in range(count)] for count in (5, 3)]
    for one in waited:
        site.wait(one)
    raised = site.downloader.total_concurrency
    for one in later:
        site.come(one)
    other = request("other.example")
    site.come(other)
    assert site.order == [*waited[:2], other]
    assert site.downloader.total_concurrency == raised == 16 + 3
    for number in range(2):
        site.leave(waited[number])
    assert site.order == [*waited[:2], other, *waited[2:4]]
    site.leave(waited[2])
    assert site.order[-4:] == [waited[4], *later]  # the queue has ended, and their slot has its own
    assert site.downloader.total_concurrency == 16
    assert site.waiting.is_empty


def test_who_comes_later_takes_no_room_from_those_who_waited():
    site = Site(downloader_of_two(total_concurrency=4))
    first, second = [[request(f"{name}.example") for _ in range(5)] for name in "ab"]
    for one in first:
        site.wait(one)
    for _ in range(2):
        site.come(request("a.example"))
    for one in second:
        site.wait(one)
    assert site.order == [*first[:2], *second[:2]]


def test_who_comes_later_holds_other_sites_up_no_longer_than_until_the_next_but_one_goes():
    site = Site(downloader_of_two(total_concurrency=4))
    waited, later = [[request() for _ in range(count)] for count in (8, 3)]
    for one in waited:
        site.wait(one)
    for one in later:
        site.come(one)
    downloader = site.downloader
    assert len(downloader.active) > downloader.total_concurrency  # no more are taken, of no site
    site.leave(waited[0])
    site.leave(waited[1])
    assert site.order == [*waited[:2], later[0], waited[2]]
    site.leave(later[0])
    site.leave(waited[2])
    assert site.order == [*waited[:2], later[0], waited[2], later[1], waited[3]]
    site.leave(later[1])
    assert len(downloader.active) < downloader.total_concurrency
    site.leave(waited[3])
    assert site.order[-2:] == waited[4:6]
    assert site.waiting.may_hold


def test_who_came_later_and_is_cancelled_leaves_no_room_to_others():
    site = Site(downloader_of_two(total_concurrency=4))
    a, b, c = [[request(f"{name}.example") for _ in range(3)] for name in "abc"]
    for one in a:
        site.wait(one)
    for _ in range(3):
        site.come(request("a.example")).addErrback(lambda _: None).cancel()
    for one in (*b, *c):
        site.wait(one)
    assert site.order == [*a[:2], *b[:2]]


def test_who_comes_later_is_in_the_journal_like_those_who_waited():
    noted = []
    journal = SimpleNamespace(add=noted.append)
    site = Site(downloader_of_two(), journal=journal)
    waited, later = [request() for _ in range(3)], request()
    for one in waited:
        site.wait(one)
    site.come(later)
    assert noted == [*waited, later]


def test_at_the_end_everybody_goes():
    site = Site(downloader_of_two())
    for _ in range(5):
        site.wait(request())
    site.come(request())
    site.waiting.let_all_go()
    assert len(site.order) == 6
    assert site.waiting.is_empty
    assert site.downloader.total_concurrency == 16


class TestPutOff:
    """Who finds no room goes back to the scheduler, in a slot of the place that it waits for."""

    def put_off(self, waiting, place, count):
        everybody = [request(f"{place}.example") for _ in range(count)]
        for one in everybody:
            with pytest.raises(TooManyWaiting), waiting.hold(one, place):
                pass
            Memo(f"{place}.example").put_on(one)
            waiting.put_off.add(one, place)
        return everybody

    def active_in_the_slot_of(self, downloader, one):
        slot = downloader.slots.get(one.meta["download_slot"])
        return len(slot.active) if slot else 0

    def test_its_slot_is_busier_than_any_other_until_a_solve_of_its_place_ends(self):
        downloader = downloader_of_two()
        waiting = waiting_with(downloader, limit=1)
        with waiting.hold(request(), "a"):
            of_a, of_b = self.put_off(waiting, "a", 2), self.put_off(waiting, "b", 2)
            for one in (*of_a, *of_b):
                assert self.active_in_the_slot_of(downloader, one) > 17
            assert of_a[0].meta["download_slot"] == of_a[1].meta["download_slot"]
            assert of_a[0].meta["download_slot"] != of_b[0].meta["download_slot"]
        assert all(self.active_in_the_slot_of(downloader, one) == 0 for one in of_a)

    def test_it_gets_its_own_slot_and_priority_back(self):
        waiting = waiting_with(downloader_of_two(), limit=1)
        with waiting.hold(request(), "a"):
            (one,) = self.put_off(waiting, "b", 1)
            assert one.priority < -1000
            assert waiting.put_off.take_back(one)  # it came although it is to be taken last
        assert (one.priority, one.meta["download_slot"]) == (0, "b.example")
        assert not waiting.put_off.take_back(one)

    def test_places_come_in_turn_when_there_is_room_for_all_that_may_be_taken_at_once(self):
        downloader = downloader_of_two(total_concurrency=2)
        waiting = waiting_with(downloader, limit=4)
        with ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(waiting.hold(request(), "a"))
            first, second = (self.put_off(waiting, place, 3)[0] for place in "bc")
            busy = [self.active_in_the_slot_of(downloader, one) > 0 for one in (first, second)]
            assert busy == [True, True]
        busy = [self.active_in_the_slot_of(downloader, one) > 0 for one in (first, second)]
        assert busy == [False, True]
        assert not waiting.put_off.take_back(first)

    def test_the_last_ones_wait_inside_the_count_until_there_is_room(self):
        waiting = waiting_with(downloader_of_two(), limit=1)
        with waiting.hold(request(), "a"):
            turn = Deferred.fromCoroutine(
                waiting.until_room(request(), "b", True, is_challenged=False)
            )
            further = Deferred.fromCoroutine(
                waiting.until_room(request(), "b", True, is_challenged=False)
            )
            assert not turn.called
        assert turn.called
        assert not further.called  # there was room for one
        assert not waiting.is_empty
        waiting.look()  # which has got its page at once
        assert further.called
        assert waiting.is_empty

    def test_only_what_would_be_challenged_is_put_off(self):
        waiting = waiting_with(downloader_of_two(), limit=1)
        with waiting.hold(request(), "a"):
            assert self.goes(waiting, "b", is_challenged=False)
            assert not self.goes(waiting, "b", is_challenged=True)
            self.put_off(waiting, "b", 1)
            assert not self.goes(waiting, "b", is_challenged=False)  # as the one before it

    def goes(self, waiting, place, *, is_challenged):
        """Whether a request goes at once; if not, it is put off."""
        until = waiting.until_room(request(), place, False, is_challenged=is_challenged)
        put_off = []
        Deferred.fromCoroutine(until).addErrback(lambda failure: put_off.append(failure.value))
        assert all(isinstance(one, TooManyWaiting) for one in put_off)
        return not put_off


@given(
    st.lists(
        st.tuples(st.sampled_from(["wait", "come", "leave", "cancel", "look"]), st.integers(0, 9))
    ),
    st.integers(0, 6),
)
def test_in_any_order_the_counters_are_back_in_the_end(events, limit):
    site, going = Site(downloader_of_two(), limit), []
    for event, number in events:
        if event == "wait":
            going.append(site.wait(request()).addErrback(lambda _: None))
        elif event == "come":
            going.append(site.come(request()).addErrback(lambda _: None))
        elif event == "leave" and site.order:
            site.leave(site.order.pop(0))
        elif event == "cancel" and going:
            going.pop(number % len(going)).cancel()
        else:
            site.waiting.let_go_where_room()
        assert site.downloader.total_concurrency == 16 + site.held
        assert site.held <= limit
    site.waiting.let_all_go()
    assert site.downloader.total_concurrency == 16
    assert all(one.called for one in going)
    for one in site.order:
        site.leave(one)
    assert all(not slot.active for slot in site.downloader.slots.values())

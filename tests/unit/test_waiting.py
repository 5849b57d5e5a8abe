"""Seats and turns: whatever happens, Scrapy's own counters are back in the end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fakes import FakeDownloader, crawler_with
from hypothesis import given
from hypothesis import strategies as st
from scrapy import Request
from twisted.internet.defer import Deferred

from scrapy_ezcaptcha.waiting import WaitingRoom


def downloader_of_two(total_concurrency=16):
    return FakeDownloader(total_concurrency, per_slot=2)


class Wakes:
    def __init__(self):
        self.count = 0

    def schedule(self):
        self.count += 1


def room_of(downloader, limit=1000):
    wakes = Wakes()
    room = WaitingRoom(crawler_with(downloader, SimpleNamespace(nextcall=wakes)), limit)
    room.wakes = wakes
    return room


def request(host="shop.example"):
    return Request(f"http://{host}/")


def test_a_seat_raises_the_concurrency_and_makes_its_site_busy():
    downloader = downloader_of_two()
    room, waiting = room_of(downloader), request()
    with room.seat(waiting) as is_seated:
        assert is_seated
        assert downloader.total_concurrency == 17
        assert downloader.slots["shop.example"].active == {waiting}
        assert room.wakes.count == 1
    assert downloader.total_concurrency == 16
    assert downloader.slots["shop.example"].active == set()


def test_no_limit_stays_no_limit():
    downloader = downloader_of_two(total_concurrency=0)
    with room_of(downloader).seat(request()):
        assert downloader.total_concurrency == 0
    assert downloader.total_concurrency == 0


def test_the_counters_are_back_when_the_waiting_fails():
    downloader = downloader_of_two()
    with pytest.raises(ValueError, match="x"), room_of(downloader).seat(request()):
        raise ValueError("x")
    assert downloader.total_concurrency == 16
    assert downloader.slots["shop.example"].active == set()


def test_beyond_the_limit_requests_wait_inside_the_count():
    downloader = downloader_of_two()
    room = room_of(downloader, limit=1)
    with room.seat(request()), room.seat(request()) as is_seated:
        assert not is_seated
        assert downloader.total_concurrency == 17


@pytest.mark.parametrize(
    "downloader",
    [None, SimpleNamespace(), SimpleNamespace(_get_slot=lambda request: None, slots={})],
)
def test_another_downloader_means_plain_waiting_said_once(downloader, caplog):
    room = room_of(downloader)
    for _ in range(3):
        with room.seat(request()) as is_seated:
            assert not is_seated
    assert caplog.text.count("other sites will be slower") == 1


def take_turn(room, waiting, order):
    """Wait for a turn as the broker does, and note who went."""

    async def go():
        with room.seat(waiting):
            await room.turn(waiting)
        room._downloader.slots["shop.example"].active.add(waiting)
        order.append(waiting)

    return Deferred.fromCoroutine(go())


def leave(room, waiting):
    room.left(waiting)
    room._downloader.slots["shop.example"].active.discard(waiting)


def test_who_waited_is_let_go_at_the_pace_of_the_slot():
    room, order = room_of(downloader_of_two()), []
    everybody = [request() for _ in range(5)]
    for waiting in everybody:
        take_turn(room, waiting, order)
    assert order == everybody[:2]  # the slot's concurrency
    assert room.is_queue_before(request())
    assert not room.is_queue_before(request("other.example"))
    for number in range(3):
        leave(room, everybody[number])
        assert order == everybody[: number + 3]
    assert not room.has_turns_pending
    assert room._downloader.total_concurrency == 16


def test_a_turn_that_nobody_took_up_is_given_again():
    room, order = room_of(downloader_of_two()), []
    everybody = [request() for _ in range(4)]
    going = [take_turn(room, waiting, order) for waiting in everybody]
    going[2].addErrback(lambda _: None).cancel()
    room._downloader.slots["shop.example"].active -= set(everybody[:2])  # lost without a word
    room.look()
    assert order == [*everybody[:2], everybody[3]]
    assert not room.has_turns_pending


def test_at_the_end_everybody_goes():
    room, order = room_of(downloader_of_two()), []
    for _ in range(6):
        take_turn(room, request(), order)
    room.close()
    assert len(order) == 6
    assert not room.has_turns_pending
    assert room._downloader.total_concurrency == 16


@given(
    st.lists(st.tuples(st.sampled_from(["sit", "leave", "cancel", "look"]), st.integers(0, 9))),
    st.integers(0, 6),
)
def test_in_any_order_the_counters_are_back_in_the_end(events, limit):
    downloader = downloader_of_two()
    room, order, going = room_of(downloader, limit), [], []
    for event, number in events:
        if event == "sit":
            going.append(take_turn(room, request(), order).addErrback(lambda _: None))
        elif event == "leave" and order:
            leave(room, order.pop(0))
        elif event == "cancel" and going:
            going.pop(number % len(going)).cancel()
        else:
            room.look()
        assert downloader.total_concurrency == 16 + room._seated.total()
    room.close()
    assert downloader.total_concurrency == 16
    assert all(waiting.called for waiting in going)
    for waiting in order:
        leave(room, waiting)
    assert all(not slot.active for slot in downloader.slots.values())

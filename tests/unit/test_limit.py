"""How many tasks at once: any order of events keeps the limit and forgets nobody."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from scrapy_ezcaptcha.solving.limit import TaskLimit


class Tasks:
    def __init__(self, most):
        self.limit = TaskLimit(most)
        self.going = []
        self.waiting = []

    def begin(self):
        place = Deferred.fromCoroutine(self.limit.acquire())
        self.waiting.append(place)
        place.addCallback(lambda _: (self.waiting.remove(place), self.going.append(place)))
        place.addErrback(lambda _: self.waiting.remove(place))

    def end(self):
        self.going.pop()
        self.limit.release()


def test_further_tasks_wait_for_an_end():
    tasks = Tasks(2)
    for _ in range(5):
        tasks.begin()
    assert (len(tasks.going), len(tasks.waiting)) == (2, 3)
    tasks.end()
    assert (len(tasks.going), len(tasks.waiting)) == (2, 2)


def test_it_falls_when_the_service_throttles_and_rises_again():
    tasks = Tasks(16)
    for _ in range(40):
        tasks.begin()
    for _ in range(2):
        tasks.limit.throttled()
    for _ in range(13):
        tasks.end()
    assert len(tasks.going) == 4
    for _ in range(5):
        tasks.limit.created()
    assert len(tasks.going) == 5
    for _ in range(300):
        tasks.limit.created()
    assert len(tasks.going) == 16


@given(
    st.integers(1, 5), st.lists(st.sampled_from(["begin", "end", "throttled", "created", "cancel"]))
)
def test_in_any_order_nobody_is_forgotten(most, events):
    tasks = Tasks(most)
    for event in events:
        if event == "begin":
            tasks.begin()
        elif event == "end" and tasks.going:
            tasks.end()
        elif event == "cancel" and tasks.waiting:
            tasks.waiting[0].cancel()
        elif event in {"throttled", "created"}:
            getattr(tasks.limit, event)()
        assert len(tasks.going) <= most
    while tasks.going:
        tasks.end()
    assert tasks.waiting == []

"""A challenge is evidence: in any order of answers, nothing is concluded too early."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from test_broker import EXITS, World

from scrapy_ezcaptcha.clearances.clearance import Clearance
from scrapy_ezcaptcha.clearances.record import Location, Seen

ZONE = "shop.example"
LOCATIONS = [
    Location(host, ZONE, f"{host}/{path}")
    for host in (ZONE, f"www.{ZONE}")
    for path in ("item", "login")
]


@dataclass
class Sent:
    """A request in flight."""

    location: Location
    clearance: Clearance | None
    number: int
    seen: Seen | None = None


class Evidence(RuleBasedStateMachine):
    """Requests to a site that challenges at random, lets clearances expire, and guards /login.

    ``doubts`` holds, by clearance, how many requests had been sent at each of its challenges,
    ``last_page`` the number of the last request that it let through.
    """

    def __init__(self):
        super().__init__()
        self.world = World(max_concurrent_tasks=3, breaker_failures=1000)
        self.world.service.on_start = self.starts
        self.in_flight, self.sent = [], 0
        self.dead = set()
        self.doubts = defaultdict(list)
        self.last_page = Counter()

    @initialize()
    def the_first_clearance_serves_both_hosts(self):
        self.world.ask(LOCATIONS[0].path)
        self.world.solved()
        for location in LOCATIONS:
            if location.path.endswith("item"):
                self.send(location)
                self.answer(0, is_stray=False)

    def starts(self, host, exit):
        assert all(not self.lets_through(record.clearance) for record in self.records), (
            "a task was bought although a clearance lets requests through"
        )

    @property
    def records(self):
        return self.world.known.records((ZONE, EXITS[0]))

    def lets_through(self, clearance):
        """Whether the known *clearance* serves both hosts, and was not challenged since a page."""
        record = next(one for one in self.records if one.clearance.id == clearance.id)
        is_in_doubt = max(self.doubts[clearance.id], default=-1) >= self.last_page[clearance.id]
        is_refused = is_in_doubt or bool(record.refused)
        return not is_refused and record.accepted == {ZONE, f"www.{ZONE}"}

    def send(self, location, seen=None):
        known = self.world.known
        clearance = known.find(location, EXITS[0])
        if clearance is not None:
            self.sent = known.next_number()
        self.in_flight.append(Sent(location, clearance, self.sent, seen))

    @rule(location=st.sampled_from(LOCATIONS), times=st.integers(1, 7))
    def sends(self, location, times):
        for _ in range(times):
            self.send(location)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), times=st.integers(1, 7), is_stray=st.booleans())
    def answers(self, data, times, is_stray):
        first = data.draw(st.integers(0, len(self.in_flight) - 1))
        for _ in range(min(times, len(self.in_flight) - first)):
            self.answer(first, is_stray=is_stray)

    def answer(self, index, *, is_stray):
        sent = self.in_flight.pop(index)
        clearance = sent.clearance
        self.world.known.note_challenge(sent.location)  # all its paths are protected
        if clearance is None:
            self.needs_another(sent)
        elif clearance.id in self.dead or sent.location.path.endswith("login") or is_stray:
            self.is_challenged(sent)
        else:
            self.world.broker.accepted(sent.location, clearance, sent.number)
            self.last_page[clearance.id] = max(self.last_page[clearance.id], sent.number)

    def is_challenged(self, sent):
        clearance = sent.clearance
        was_known = any(one.clearance.id == clearance.id for one in self.records)
        before, last_page = self.doubts[clearance.id], self.last_page[clearance.id]
        seen = self.world.broker.challenged(sent.location, clearance, sent.number, sent.seen)
        is_known = any(one.clearance.id == clearance.id for one in self.records)
        if was_known and not is_known:
            since = [at for at in before if at < sent.number and at >= last_page]
            assert since, "it was rejected by one challenge, or although it lets requests through"
        before.append(self.sent)
        if seen is None:
            self.needs_another(sent)
            return
        if sent.seen is not None and sent.seen.clearance == clearance.id:
            assert last_page > sent.seen.sent, "it was sent again twice for nothing"
        self.send(sent.location, seen)

    def needs_another(self, sent):
        if self.world.known.find(sent.location, EXITS[0]) is not None:
            self.send(sent.location)
        else:
            self.world.ask(sent.location.path)

    @precondition(lambda self: self.world.service.pending)
    @rule(data=st.data())
    def is_solved(self, data):
        self.world.solved(data.draw(st.integers(0, len(self.world.service.pending) - 1)))

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def expires(self, data):
        self.dead.add(data.draw(st.sampled_from([one.clearance.id for one in self.records])))

    @invariant()
    def one_task_at_a_time_for_each_path(self):
        urls = [self.world.service.urls[task_id] for task_id, _ in self.world.service.pending]
        assert len(set(urls)) == len(urls)

    def teardown(self):
        self.world.broker.close()


TestEvidence = pytest.mark.unmeasured(Evidence.TestCase)
TestEvidence.settings = settings(stateful_step_count=60)

"""The broker under any order of events, driven by a clock of its own."""

from __future__ import annotations

from collections import Counter

import pytest
from fakes import LOG, EngineSlot, FakeDownloader, MemoryBackend, Stats, crawler_with
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from scrapy import Request
from scrapy.settings import Settings
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater

from scrapy_ezcaptcha import ApiError, Solution, SolveTimeout, TransportError
from scrapy_ezcaptcha.clearances.clearance import zone_of
from scrapy_ezcaptcha.clearances.known import KnownClearances
from scrapy_ezcaptcha.config import Config
from scrapy_ezcaptcha.crawl.engine import Engine
from scrapy_ezcaptcha.crawl.memo import location_of
from scrapy_ezcaptcha.crawl.put_off import PutOffRequests
from scrapy_ezcaptcha.crawl.target import Options, Target
from scrapy_ezcaptcha.crawl.waiting import WaitingRequests
from scrapy_ezcaptcha.errors import CrawlEnding, EzCaptchaError, GivenUp
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.solving.broker import Broker
from scrapy_ezcaptcha.solving.ledger import Ledger
from scrapy_ezcaptcha.solving.pages import BoughtPages
from scrapy_ezcaptcha.solving.solver import Solver
from scrapy_ezcaptcha.solving.warnings import SiteWarnings
from scrapy_ezcaptcha.stores import Store
from scrapy_ezcaptcha.stores.sharing import Sharing

HOSTS = ("shop.example", "www.shop.example", "admin.shop.example", "other.example")
EXITS = tuple(Exit.parse(f"http://user{number}:p@proxy.example:1") for number in range(2))


class FakeService:
    """A service whose every solve is ended by the test."""

    def __init__(self):
        self.pending: list[tuple[str, Deferred]] = []  # task id, and outcome
        self.places = {}  # host and exit, by task id
        self.urls = {}
        self.created = 0
        self.on_start = lambda host, exit: None

    async def create_for(self, url, exit, rq_data, *, on_throttled):
        host = url.split("/")[2]
        self.on_start(host, exit)
        self.created += 1
        self.places[f"task{self.created}"] = (host, exit)
        self.urls[f"task{self.created}"] = url
        return f"task{self.created}"

    async def wait_for_solution(self, what, exit=None):
        entry = (what, Deferred())
        self.pending.append(entry)
        try:
            return await entry[1]
        finally:
            self.pending.remove(entry)


class World:
    """A broker with everything around it, and the requests that wait for it."""

    def __init__(self, service=None, reactor=None, store=None, **options):
        self.clock = reactor or Clock()
        self.downloader = FakeDownloader()
        self.engine_slot = EngineSlot()
        self.stats = Stats()
        self.service = service or FakeService()
        self.limits = []
        config = Config(client_key="k", **options)
        self.solver = Solver(
            self.service,
            config,
            Ledger(self.stats, LOG),
            log=LOG,
            clock=self.clock.seconds,
            on_limit=lambda: self.limits.append(1),
        )
        engine = Engine(crawler_with(self.downloader, self.engine_slot), LOG)
        self.known = KnownClearances(keeps_changes=store is not None)
        self.sharing = Sharing(self.known, store, reactor=self.clock, stats=self.stats, log=LOG)
        self.broker = Broker(
            self.solver,
            self.known,
            self.sharing,
            WaitingRequests(engine, 1000, PutOffRequests(engine, self.stats, LOG)),
            BoughtPages(),
            SiteWarnings(config, Settings(), LOG, lambda: None),
            engine.is_closing,
            stats=self.stats,
            log=LOG,
            reactor=self.clock,
        )
        self.ended: list[object] = []

    def close_crawl(self):
        """Begin to close the crawl, and let that be noticed."""
        self.engine_slot.closing = Deferred()
        self.clock.advance(0.25)

    def target(self, host, exit=EXITS[0], **options):
        request = Request(f"http://{host}/")
        return Target(request, location_of(request), exit, exit, Options(**options))

    def find(self, host, exit=EXITS[0]):
        return self.known.find(self.at(host), exit)

    def at(self, host):
        return location_of(Request(f"http://{host}/"))

    def accepted(self, host, clearance):
        self.known.note_challenge(self.at(host))
        self.broker.accepted(self.at(host), clearance, self.known.next_number())

    def rejected(self, host, clearance):
        """Let *host* challenge a request twice, as it is sent again once."""
        self.known.note_challenge(self.at(host))
        seen = None
        for _ in range(2):
            number = self.known.next_number()
            seen = self.broker.challenged(self.at(host), clearance, number, seen)
            if seen is None:
                break
        return seen

    def ask(self, host, exit=EXITS[0]):
        """Ask for a clearance; how it ends is noted."""
        waiting = Deferred.fromCoroutine(self.broker.clearance_for(self.target(host, exit)))
        waiting.addErrback(lambda failure: failure.value)
        waiting.addCallback(lambda outcome: self.ended.append(outcome) or outcome)
        return waiting

    def solved(self, index=0, **cookies):
        _, outcome = self.service.pending[index]
        outcome.callback(Solution({"user-agent": "UA"}, {"cf_clearance": "c", **cookies}))

    def failed(self, error, index=0):
        self.service.pending[index][1].errback(error)


def test_one_solve_serves_all_who_wait():
    world = World()
    for host in HOSTS[:3] * 16:
        world.ask(host)
    assert world.service.created == 1
    world.solved()
    assert len(world.ended) == 48
    assert len({clearance.id for clearance in world.ended}) == 1
    assert world.stats["ezcaptcha/requests/waiting_max"] == 48
    assert world.stats["ezcaptcha/tasks/ready"] == 1


def test_who_waits_longest_is_told_first():
    world, order = World(), []
    for number in range(5):
        world.ask("shop.example").addCallback(lambda _, number=number: order.append(number))
    world.solved()
    assert order == [0, 1, 2, 3, 4]


def test_a_failure_is_told_to_all_at_once():
    world = World()
    for _ in range(5):
        world.ask("shop.example")
    world.failed(SolveTimeout(120, task_id="task1"))
    assert len(world.ended) == 5
    assert all(isinstance(error, SolveTimeout) for error in world.ended)
    assert world.service.created == 1
    assert world.stats["ezcaptcha/tasks/failed/SOLVE_TIMEOUT"] == 1


def test_an_error_told_to_many_keeps_nobodys_frames():
    world = World()
    for _ in range(100):
        world.ask("shop.example")
    world.failed(SolveTimeout(120))
    depth, frame = 0, world.ended[-1].__traceback__
    while frame is not None:
        depth, frame = depth + 1, frame.tb_next
    assert depth < 20


def test_who_is_not_downloaded_yet_waits_too():
    world, gone_on = World(), []
    world.ask("shop.example")
    for host in HOSTS:
        gate = world.broker.wait_for_solve(world.target(host))
        Deferred.fromCoroutine(gate).addCallback(lambda _, host=host: gone_on.append(host))
    assert gone_on == ["other.example"]
    world.failed(SolveTimeout(120))
    assert sorted(gone_on) == sorted(HOSTS)  # after a failure it goes and sees


def test_a_waiter_that_is_cancelled_leaves_the_others_and_the_task_alone():
    world = World()
    first = world.ask("shop.example")
    world.ask("shop.example")
    first.cancel()
    assert len(world.service.pending) == 1
    world.solved()
    assert world.find("shop.example") is not None
    assert len(world.ended) == 2


def test_a_task_nobody_waits_for_any_more_is_polled_on_for_those_who_come():
    world = World()
    world.ask("shop.example").cancel()
    assert len(world.service.pending) == 1
    world.ask("shop.example")
    assert world.service.created == 1
    world.solved()
    assert world.ended[-1] is world.find("shop.example")


def test_when_the_crawl_ends_nobody_waits_and_polling_stops():
    world = World()
    world.ask("shop.example")
    world.ask("other.example")
    page = Deferred.fromCoroutine(world.broker.solution_for(world.target("shop.example")))
    page.addErrback(lambda failure: world.ended.append(failure.value))
    world.close_crawl()
    assert [type(error) for error in world.ended] == [CrawlEnding] * 3
    assert world.service.pending == []
    world.ask("shop.example")
    assert isinstance(world.ended[-1], CrawlEnding)
    assert world.clock.getDelayedCalls() == []


def test_those_who_wait_for_their_turn_are_sent_away_too():
    world = World()
    world.ask("shop.example")
    slot = world.downloader.slots["shop.example"]
    slot.active |= {Request("http://shop.example/") for _ in range(slot.concurrency)}
    for _ in range(12):
        gate = world.broker.wait_for_solve(world.target("shop.example"))
        Deferred.fromCoroutine(gate).addErrback(lambda failure: world.ended.append(failure.value))
    world.solved()
    assert len(world.ended) == 1  # the slot is full: the others wait for their turn
    world.close_crawl()
    assert [type(error) for error in world.ended[1:]] == [CrawlEnding] * 12
    assert world.downloader.total_concurrency == 16
    assert len(slot.active) == slot.concurrency
    assert world.clock.getDelayedCalls() == []


def test_a_solve_is_not_begun_while_the_crawl_is_closing():
    world = World()
    world.close_crawl()
    world.ask("shop.example")
    assert isinstance(world.ended[0], CrawlEnding)
    assert world.service.created == 0


def test_the_look_out_for_closing_rests_when_nothing_is_under_way():
    world = World()
    world.ask("shop.example")
    world.solved()
    world.clock.advance(0.25)
    assert world.clock.getDelayedCalls() == []
    assert not world.known.has_zone("other.example")
    assert world.known.has_zone("shop.example")


def test_it_tells_in_which_zones_requests_may_have_to_wait():
    world = World()
    world.ask("www.shop.example")
    assert world.broker.may_hold(Request("http://shop.example/"))
    assert not world.broker.may_hold(Request("http://other.example/"))
    world.solved()
    assert not world.broker.may_hold(Request("http://shop.example/"))
    assert not world.broker.may_hold(Request("http://other.example/"))


def test_hosts_that_refuse_the_zones_clearance_at_the_same_time_wait_for_one_solve():
    world, (zone, www, admin, _) = World(), HOSTS
    world.ask(admin)
    world.solved()
    of_admin = world.find(admin)
    for host in (zone, www):
        world.rejected(host, of_admin)
        world.accepted(admin, of_admin)  # it is good for others
    world.ask(zone)
    world.ask(www)
    assert len(world.service.pending) == 1
    world.solved()
    assert world.find(zone) is world.find(www)
    world.rejected(www, world.find(www))  # the second that it refuses: now it wants its own
    world.ask(www)
    world.solved()
    assert world.find(www).origin == www
    assert world.service.created == 3


def test_tasks_at_once_are_limited_and_the_rest_follow():
    world = World(max_concurrent_tasks=2)
    for number in range(5):
        world.ask(f"shop{number}.example")
    assert len(world.service.pending) == 2
    world.solved()
    assert len(world.service.pending) == 2
    while world.service.pending:
        world.solved()
    assert len(world.ended) == 5


def test_the_first_call_goes_alone_until_the_key_has_proved_good():
    class SlowCreation(FakeService):
        creation = Deferred()

        async def create_for(self, url, exit, rq_data, *, on_throttled):
            self.created += 1
            await self.creation
            return "task"

        async def wait_for_solution(self, what, exit=None):
            return Solution({"user-agent": "UA"}, {"cf_clearance": "c"})

    world = World(SlowCreation())
    for number in range(5):
        world.ask(f"shop{number}.example")
    assert world.service.created == 1
    world.service.creation.callback(None)
    assert world.service.created == 5
    assert len(world.ended) == 5


def test_a_refused_key_stops_everything():
    world = World()
    world.ask("shop.example")
    world.failed(ApiError("ERROR_ZERO_BALANCE"))
    for number in range(5):
        world.ask(f"shop{number}.example")
    assert world.service.created == 1
    assert isinstance(world.ended[-1], GivenUp)
    assert "ERROR_ZERO_BALANCE" in str(world.ended[-1])
    assert world.limits == [1]


def test_what_was_surely_not_created_does_not_count_against_the_limit():
    class Refusing(FakeService):
        async def create_for(self, url, exit, rq_data, *, on_throttled):
            self.created += 1
            raise TransportError("refused", sent=self.sent)

    for sent, calls in ((False, 3), (True, 1)):
        world = World(Refusing(), max_tasks=1, breaker_failures=9)
        world.service.sent = sent
        for number in range(3):
            world.ask(f"shop{number}.example")
        assert world.service.created == calls


def test_a_zone_is_given_up_after_three_useless_solves_and_tried_again_later():
    world = World()
    for _ in range(3):
        world.ask("shop.example")
        world.solved()
        world.rejected("shop.example", world.find("shop.example"))
    world.ask("www.shop.example")
    assert isinstance(world.ended[-1], GivenUp)
    world.ask("other.example")
    assert world.service.created == 4
    world.clock.advance(300)
    world.ask("shop.example")
    assert world.service.created == 5


def test_a_bug_of_ours_ends_as_an_error_of_the_request(caplog):
    world = World()
    waiting = world.ask("shop.example")
    world.failed(RuntimeError("a bug"))
    assert str(world.ended[0]) == "internal error, see the log"
    assert "A solve ended with an unexpected error" in caplog.text
    assert waiting.called


def test_a_call_that_is_cancelled_by_itself_ends_the_wait():
    world = World()
    world.ask("shop.example")
    world.failed(CancelledError())
    assert str(world.ended[0]) == "internal error, see the log"
    world.ask("shop.example")
    assert world.service.created == 2


def test_a_page_of_its_own_is_solved_for_each_and_its_clearance_kept():
    world, pages = World(), []
    for _ in range(2):
        page = Deferred.fromCoroutine(world.broker.solution_for(world.target("shop.example")))
        page.addCallback(pages.append)
    assert len(world.service.pending) == 2
    world.solved()
    world.solved()
    assert len(pages) == 2
    assert world.find("shop.example").id == "task1"


@pytest.mark.parametrize("solution", [Solution(), Solution({"user-agent": "UA"})])
def test_a_page_without_page_or_clearance_is_an_error(solution):
    world = World()
    page = Deferred.fromCoroutine(world.broker.solution_for(world.target("shop.example")))
    page.addErrback(lambda failure: world.ended.append(failure.value))
    world.service.pending[0][1].callback(solution)
    assert "neither a page nor a clearance" in str(world.ended[0])


class TestUnfinishedTasks:
    """What a process that ended had paid for, in a store."""

    PLACE = ("shop.example", EXITS[0])

    @pytest.fixture
    def store(self):
        return Store(MemoryBackend(), "k")

    @pytest.fixture
    def left(self, store):
        """A store with an unfinished task."""
        token = store.acquire(self.PLACE, 10).token
        store.extend(self.PLACE, token, 10, "task-before")
        store.release(self.PLACE, token, keep_task=True)
        return store

    async def ask(self, world, end):
        """Ask for a clearance, and let *end* end what is under way."""
        waiting = world.ask("shop.example")
        while not waiting.called:
            if world.service.pending:
                end(world)
            await deferLater(world.clock, 0.001)
        await world.sharing.close()

    def task_in(self, store):
        return store.acquire(self.PLACE, 10).task_id

    def test_they_are_continued_and_cost_nothing(self, left, run, running_reactor):
        world, continued = World(reactor=running_reactor, store=left), []

        def ready(world):
            continued.append(world.service.pending[0][0])
            world.solved()

        run(lambda: self.ask(world, ready))
        assert continued == ["task-before"]
        assert world.ended[0].id == "task-before"
        assert world.service.created == 0
        assert (
            world.stats["ezcaptcha/tasks/taken_over"] == world.stats["ezcaptcha/tasks/ready"] == 1
        )
        assert self.task_in(left) is None

    def test_one_that_brings_nothing_is_followed_by_a_new_one(self, left, run, running_reactor):
        world = World(reactor=running_reactor, store=left)
        gone = ApiError("ERROR_TASK_NOT_EXIST", "gone", status=200, task_id="task-before")

        def end(world):
            if world.service.pending[0][0] == "task-before":
                world.failed(gone)
            else:
                world.solved()

        run(lambda: self.ask(world, end))
        assert world.ended[0].id == "task1"
        assert (world.service.created, world.stats["ezcaptcha/tasks/failed"]) == (1, 1)

    def test_a_limit_does_not_keep_them_from_being_continued(self, left, run, running_reactor):
        """They are paid for."""
        world = World(reactor=running_reactor, store=left, max_tasks=1)

        async def scenario():
            elsewhere = world.ask("other.example")
            while not elsewhere.called:
                if world.service.pending:
                    world.solved()
                await deferLater(world.clock, 0.001)
            await self.ask(world, lambda world: world.solved())

        run(scenario)
        assert world.ended[-1].id == "task-before"
        assert world.service.created == 1
        assert self.task_in(left) is None

    def test_a_crawl_that_ends_leaves_its_own(self, store, run, running_reactor):
        world = World(reactor=running_reactor, store=store)

        def end(world):
            world.engine_slot.closing = Deferred()

        run(lambda: self.ask(world, end))
        assert isinstance(world.ended[0], CrawlEnding)
        assert self.task_in(store) == "task1"


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens, in whatever order."""

    def __init__(self):
        super().__init__()
        self.world = World(max_concurrent_tasks=3, breaker_seconds=5.0)
        self.waiting = []
        self.world.service.on_start = self.starts
        self.outcomes = Counter()

    def starts(self, host, exit):
        assert self.world.find(host, exit) is None, "a good clearance stood unused"

    @rule(host=st.sampled_from(HOSTS), exit=st.sampled_from(EXITS))
    def challenge(self, host, exit):
        """A request without a clearance is challenged; one at hand is taken at no cost."""
        if self.world.find(host, exit) is None:
            self.waiting.append(self.world.ask(host, exit))

    @rule(host=st.sampled_from(HOSTS), exit=st.sampled_from(EXITS))
    def accept(self, host, exit):
        clearance = self.world.find(host, exit)
        if clearance is not None:
            self.world.accepted(host, clearance)

    @rule(host=st.sampled_from(HOSTS), exit=st.sampled_from(EXITS), times=st.integers(1, 4))
    def reject(self, host, exit, times):
        """Some requests in flight with one clearance are challenged, and want another."""
        clearance = self.world.find(host, exit)
        for _ in range(times if clearance else 0):
            self.world.rejected(host, clearance)
            again = self.world.find(host, exit)
            assert again is not clearance
            if again is None:
                self.waiting.append(self.world.ask(host, exit))

    @precondition(lambda self: self.world.service.pending)
    @rule(data=st.data())
    def ready(self, data):
        self.world.solved(data.draw(st.integers(0, len(self.world.service.pending) - 1)))
        self.outcomes["ready"] += 1

    @precondition(lambda self: self.world.service.pending)
    @rule(
        data=st.data(),
        error=st.sampled_from(
            [
                lambda: ApiError("ERROR_OF_TOMORROW"),
                lambda: SolveTimeout(1),
                lambda: TransportError("cut", sent=True),
            ]
        ),
    )
    def fail_or_time_out(self, data, error):
        index = data.draw(st.integers(0, len(self.world.service.pending) - 1))
        self.world.failed(error(), index)
        self.outcomes["failed"] += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1))).cancel()

    @rule(seconds=st.sampled_from([0.1, 3.0, 10.0]))
    def time_passes(self, seconds):
        self.world.clock.advance(seconds)

    @invariant()
    def never_two_tasks_at_once_for_one_zone_and_exit(self):
        """But for hosts that refuse the clearance of a zone while others accept it."""
        places = [self.world.service.places[task_id] for task_id, _ in self.world.service.pending]
        assert len(set(places)) == len(places)
        zones = Counter((zone_of(host), exit) for host, exit in places)
        for place, count in zones.items():
            records = self.world.known.records(place)
            assert count == 1 or any(record.accepted and record.refused for record in records)
        assert len(self.world.service.pending) <= 3

    @invariant()
    def nobody_waits_for_nothing(self):
        still = [waiter for waiter in self.waiting if not waiter.called]
        assert len(still) == self.world.broker.flights.waiting

    @invariant()
    def the_counters_add_up(self):
        stats, pending = self.world.stats, len(self.world.service.pending)
        assert stats["ezcaptcha/tasks/created"] == self.world.service.created
        assert stats["ezcaptcha/tasks/ready"] == self.outcomes["ready"]
        assert stats["ezcaptcha/tasks/failed"] == self.outcomes["failed"]
        continued = stats["ezcaptcha/tasks/taken_over"]  # late ones
        assert self.world.service.created + continued == sum(self.outcomes.values()) + pending

    def teardown(self):
        while self.world.service.pending:
            self.world.solved()
        assert all(waiter.called for waiter in self.waiting)
        assert self.world.broker.flights.waiting == 0
        assert all(
            not isinstance(end, Exception) or isinstance(end, EzCaptchaError)
            for end in self.world.ended
            if "Cancelled" not in type(end).__name__
        )
        self.world.broker.close()
        assert self.world.clock.getDelayedCalls() == []


TestAnyOrder = pytest.mark.unmeasured(AnyOrder.TestCase)
TestAnyOrder.settings = settings(stateful_step_count=40)

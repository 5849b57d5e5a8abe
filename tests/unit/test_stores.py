"""What holds for every store, in memory, in a file and on a server alike."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from dataclasses import replace

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from redis_server import RedisServer
from scrapy import Request
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from scrapy_ezcaptcha.clearance import Clearance, Dresser
from scrapy_ezcaptcha.errors import ApiError, FailedElsewhere, GivenUp, TransportError
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.stores import Held, MemoryStore, SharedStore, StoreError, background, shared
from scrapy_ezcaptcha.stores.base import SolveFailure
from scrapy_ezcaptcha.stores.leadership import TASK_SECONDS, Leadership
from scrapy_ezcaptcha.stores.records import (
    KEPT_SECONDS,
    REJECTED_SECONDS,
    PlaceNames,
    fields_of,
    held_in,
)
from scrapy_ezcaptcha.stores.redis import RedisStore
from scrapy_ezcaptcha.stores.sqlite import SqliteStore

EXIT = Exit.parse("http://user:s3cret@proxy.example:1")
OTHER_EXIT = Exit.parse("http://other:s3cret@proxy.example:1")
ZONE = "shop.example"
PLACE = (ZONE, EXIT)
NAMES = PlaceNames("key")
LEASE = 10.0


def clearance(number=1, exit=EXIT, **cookies):
    return Clearance(
        ZONE,
        ZONE,
        exit,
        f"task{number}",
        headers={"user-agent": "UA", "accept": "text/html"},
        cookies={"cf_clearance": f"value{number}", **cookies},
        tls_version="chrome131",
        created=float(number),
    )


class Now:
    """A clock that the test turns."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not RedisServer.is_installed():
        pytest.skip("redis-server is not installed")
    running = RedisServer(tmp_path_factory.mktemp("redis"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def pair(request, tmp_path):
    """The same store as two processes have it, and a function that lets a lease run out."""
    now = Now()
    if request.param == "memory":
        one = other = MemoryStore(clock=now)
    elif request.param == "sqlite":
        one, other = (SqliteStore(tmp_path / "c.sqlite", NAMES, clock=now) for _ in range(2))
    else:
        server = request.getfixturevalue("server")
        server.client.flushall()
        one, other = (RedisStore(server.url, NAMES) for _ in range(2))

    def run_out():
        now.seconds += LEASE
        if request.param == "redis":
            key = f"ezcaptcha:lead:{{{NAMES.name(PLACE)}}}"
            state = json.loads(server.client.get(key))
            server.client.set(key, json.dumps({**state, "until": 1.0}))

    yield one, other, run_out
    one.close()
    other.close()


def ids(store, place=PLACE):
    return [held.clearance.id for held in store.get(place).held]


class TestClearances:
    def test_what_one_puts_the_other_gets_whole(self, pair):
        one, other, _ = pair
        one.put(Held(clearance(1, __cf_bm="bm"), accepted={"www.shop.example"}))
        (held,) = other.get(PLACE).held
        assert held.clearance == clearance(1, __cf_bm="bm")
        assert (held.accepted, held.refused) == ({"www.shop.example"}, set())

    def test_the_oldest_comes_first(self, pair):
        one, other, _ = pair
        for number in (3, 1, 2):
            one.put(Held(clearance(number)))
        assert ids(other) == ["task1", "task2", "task3"]

    def test_zones_and_exits_have_their_own(self, pair):
        one, other, _ = pair
        one.put(Held(clearance(1)))
        assert ids(other, (ZONE, OTHER_EXIT)) == []
        assert ids(other, ("other.example", EXIT)) == []

    def test_verdicts_of_hosts_add_up(self, pair):
        one, other, _ = pair
        one.put(Held(clearance(1), accepted={"a.shop.example"}))
        other.put(Held(clearance(1), accepted={"b.shop.example"}, refused={"c.shop.example"}))
        (held,) = one.get(PLACE).held
        assert held.accepted == {"a.shop.example", "b.shop.example"}
        assert held.refused == {"c.shop.example"}

    def test_renewed_cookies_take_the_place_of_the_old(self, pair):
        one, other, _ = pair
        one.put(Held(clearance(1)))
        one.put(Held(clearance(1, cf_clearance="newer")))
        assert other.get(PLACE).held[0].clearance.cookies["cf_clearance"] == "newer"

    def test_what_one_rejects_is_gone_for_all_and_does_not_come_back(self, pair):
        one, other, _ = pair
        one.put(Held(clearance(1)))
        one.put(Held(clearance(2)))
        other.reject(PLACE, "task1")
        assert ids(one) == ["task2"]
        one.put(Held(clearance(1), accepted={ZONE}))  # it had not heard of it
        assert ids(other) == ["task2"]

    def test_everybody_learns_what_was_rejected_and_how(self, pair):
        one, other, _ = pair
        if isinstance(one, MemoryStore):
            pytest.skip("nobody else is there to learn it")
        for number, unused in ((1, True), (2, False)):
            one.put(Held(clearance(number)))
            one.reject(PLACE, f"task{number}", unused=unused)
        assert other.get(PLACE).rejected == {"task1": True, "task2": False}

    def test_it_answers(self, pair):
        assert pair[0].check() is None  # it raises otherwise


class TestLeads:
    def test_only_one_leads(self, pair):
        one, other, _ = pair
        lead = one.lead(PLACE, LEASE)
        assert other.lead(PLACE, LEASE) is None
        assert other.get(PLACE).leader == lead.fence
        assert other.lead((ZONE, OTHER_EXIT), LEASE) is not None
        one.end(lead)
        assert other.get(PLACE).leader is None
        assert other.lead(PLACE, LEASE).fence > lead.fence

    def test_a_leader_that_is_silent_is_replaced_and_does_no_harm_later(self, pair):
        one, other, run_out = pair
        late = one.lead(PLACE, LEASE)
        run_out()
        lead = other.lead(PLACE, LEASE)
        assert lead.fence > late.fence
        assert not one.keep(late, LEASE, "task-late")
        one.end(late, SolveFailure(late.fence, "CODE", "late"))
        view = one.get(PLACE)
        assert (view.leader, view.failure) == (lead.fence, None)
        assert other.keep(lead, LEASE, "task2")

    def test_a_leader_that_was_late_and_not_replaced_goes_on(self, pair):
        one, other, run_out = pair
        lead = one.lead(PLACE, LEASE)
        run_out()
        assert one.keep(lead, LEASE)
        assert other.lead(PLACE, LEASE) is None

    def test_the_task_of_the_dead_is_gone_on_with(self, pair):
        one, other, run_out = pair
        lead = one.lead(PLACE, LEASE)
        assert lead.task_id is None
        one.keep(lead, LEASE, "task7", 1.0)
        one.keep(lead, LEASE)
        run_out()
        heir = other.lead(PLACE, LEASE)
        assert heir.task_id == "task7"
        other.end(heir, keep_task=True)
        heir = one.lead(PLACE, LEASE)
        assert heir.task_id == "task7"
        one.end(heir)
        assert other.lead(PLACE, LEASE).task_id is None

    def test_a_task_is_not_gone_on_with_once_its_result_is_gone(self, pair):
        one, other, run_out = pair
        lead = one.lead(PLACE, LEASE)
        one.keep(lead, LEASE, "task7", TASK_SECONDS - 0.001)
        time.sleep(0.002)
        run_out()
        assert other.lead(PLACE, LEASE).task_id is None

    def test_a_failure_is_told_until_the_next_lead(self, pair):
        one, other, _ = pair
        lead = one.lead(PLACE, LEASE)
        failure = SolveFailure(lead.fence, "SOLVE_TIMEOUT", "no result", "task1")
        one.end(lead, failure)
        assert other.get(PLACE).failure == failure
        one.end(one.lead(PLACE, LEASE))
        assert other.get(PLACE).failure is None

    def test_of_many_at_once_one_gets_it(self, pair):
        one, other, _ = pair
        if isinstance(one, MemoryStore):
            pytest.skip("it is asked by one thread")
        leads, start = [], threading.Barrier(2)

        def take(store):
            start.wait()
            leads.extend(store.lead((f"{number}.example", EXIT), LEASE) for number in range(50))

        threads = [threading.Thread(target=take, args=(store,)) for store in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(lead.place[0] for lead in leads if lead) == sorted(
            f"{number}.example" for number in range(50)
        )


class LeadershipMachine(RuleBasedStateMachine):
    """However leaders come, stall, die and come back, no two lead at once."""

    def __init__(self):
        super().__init__()
        self.state, self.now, self.fences = Leadership(), 1000.0, [0]

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def somebody_takes_the_lead(self):
        leader, taken = self.state.leader(self.now), self.state.taken(self.now, LEASE)
        assert (taken is None) == (leader is not None)
        if taken is not None:
            assert taken.fence > max(self.fences)
            self.fences.append(taken.fence)
            self.state = taken

    @rule(data=st.data(), task=st.none() | st.text(min_size=1), age=st.floats(0, 400))
    def somebody_keeps_it(self, data, task, age):
        fence = data.draw(st.sampled_from(self.fences))
        kept = self.state.kept(fence, self.now, LEASE, task, age)
        assert (kept is not None) == (fence == max(self.fences))
        self.state = kept or self.state

    @rule(data=st.data(), keep_task=st.booleans())
    def somebody_ends_it(self, data, keep_task):
        fence = data.draw(st.sampled_from(self.fences))
        failure = SolveFailure(fence, "CODE", "text")
        ended = self.state.ended(fence, failure, keep_task)
        assert (ended is not None) == (fence == max(self.fences))
        self.state = ended or self.state

    @invariant()
    def it_survives_being_written(self):
        assert Leadership.from_json(self.state.to_json()) == self.state


TestLeadership = LeadershipMachine.TestCase
TestLeadership.settings = settings(max_examples=50, deadline=None)

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


class TestRecords:
    @given(
        st.dictionaries(
            st.text()
            | st.lists(st.sampled_from(["clearance", "accepted", "refused", "x"])).map(json.dumps),
            st.text() | JSON.map(json.dumps),
        )
    )
    def test_whatever_stands_there_is_read_without_an_error(self, fields):
        held = held_in(fields, {"x"}, PLACE)
        assert all(one.clearance.id != "x" for one in held)

    @given(JSON)
    def test_so_is_whatever_stands_for_a_lead(self, value):
        assert Leadership.from_json(json.dumps(value)).fence >= 0

    @pytest.mark.parametrize(
        "changed",
        [
            {"zone": "other.example"},
            {"cookies": {}},
            {"header": {}},
            {"created": "yesterday"},
            {"header": [1]},
        ],
    )
    def test_what_is_no_clearance_of_the_place_is_left_out(self, changed):
        ((name, text),) = fields_of(Held(clearance())).items()
        assert len(held_in({name: text}, (), PLACE)) == 1
        assert held_in({name: json.dumps({**json.loads(text), **changed})}, (), PLACE) == []

    @given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(), st.text()))
    def test_only_what_is_well_formed_reaches_a_request(self, headers, cookies):
        whole = {"zone": ZONE, "exit": EXIT.address, "origin": ZONE, "created": 1}
        whole |= {
            "header": {**headers, "user-agent": "UA"},
            "cookies": {**cookies, "cf_clearance": "c"},
        }
        (held,) = held_in({'["clearance", "task1"]': json.dumps(whole)}, (), PLACE)
        request = Request(f"http://{ZONE}/")
        Dresser(frozenset(), {}).put_on(request, held.clearance)
        lines = request.headers.to_string()
        assert lines.count(b"\r\n") == len(request.headers.keys()) - 1
        assert b"Content-Length" not in lines
        assert b"Authorization" not in lines

    def test_neither_key_nor_password_is_written(self):
        written = NAMES.name(PLACE) + json.dumps(fields_of(Held(clearance())))
        for secret in ("s3cret", "user:", "key"):
            assert secret not in written

    def test_a_place_is_named_by_zone_exit_and_key(self):
        names = {NAMES.name(place) for place in (PLACE, (ZONE, OTHER_EXIT), ("a.example", EXIT))}
        assert len(names | {PlaceNames("another").name(PLACE)}) == 4
        assert NAMES.name(PLACE) == PlaceNames("key").name((ZONE, Exit.parse(EXIT.url)))


class TestFile:
    def test_it_is_readable_by_its_owner_alone(self, tmp_path):
        store = SqliteStore(tmp_path / "c.sqlite", NAMES)
        store.put(Held(clearance()))
        modes = {path.stat().st_mode & 0o777 for path in tmp_path.glob("c.sqlite*")}
        assert modes == {0o600}

    def test_clearances_are_kept_for_a_day(self, tmp_path):
        now = Now()
        store = SqliteStore(tmp_path / "c.sqlite", NAMES, clock=now)
        store.put(Held(clearance()))
        now.seconds += KEPT_SECONDS - 1
        assert ids(store) == ["task1"]
        now.seconds += 2
        assert ids(store) == []
        assert list(store.everything()) == []
        SqliteStore(tmp_path / "c.sqlite", NAMES, clock=now)
        with sqlite3.connect(tmp_path / "c.sqlite") as file:
            assert file.execute("SELECT count(*) FROM fields").fetchone() == (0,)

    def test_a_rejection_is_known_for_an_hour_and_leaves_nothing_else(self, tmp_path):
        """A zone whose clearances wear out quickly must not make the store slow."""
        now = Now()
        store = SqliteStore(tmp_path / "c.sqlite", NAMES, clock=now)
        store.put(Held(clearance(), accepted={ZONE, "www.shop.example"}))
        store.put(Held(clearance(2), accepted={ZONE}))
        store.reject(PLACE, "task1")
        with sqlite3.connect(tmp_path / "c.sqlite") as file:
            assert file.execute("SELECT count(*) FROM fields").fetchone() == (2,)
        now.seconds += REJECTED_SECONDS - 1
        assert store.get(PLACE).rejected == {"task1": False}
        now.seconds += 2
        assert store.get(PLACE).rejected == {}
        assert ids(store) == ["task2"]

    def test_the_next_run_of_a_job_waits_for_no_lease(self, tmp_path):
        killed = SqliteStore(tmp_path / "c.sqlite", NAMES, is_own=True)
        killed.keep(killed.lead(PLACE, LEASE), LEASE, "task7")
        resumed = SqliteStore(tmp_path / "c.sqlite", NAMES, is_own=True)
        assert resumed.lead(PLACE, LEASE).task_id == "task7"

    def test_it_may_be_opened_by_many_at_once_for_the_first_time(self, tmp_path):
        errors: list[str] = []

        def open_it(path, start):
            start.wait()
            try:
                SqliteStore(path, NAMES).close()
            except StoreError as error:
                errors.append(str(error))

        for number in range(30):
            start = threading.Barrier(8)
            arguments = (tmp_path / f"{number}.sqlite", start)
            threads = [threading.Thread(target=open_it, args=arguments) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert errors == []

    def test_it_comes_back_after_it_was_locked(self, tmp_path, monkeypatch):
        monkeypatch.setattr("scrapy_ezcaptcha.stores.sqlite._BUSY_SECONDS", 0.01)
        store = SqliteStore(tmp_path / "c.sqlite", NAMES)
        store.put(Held(clearance()))
        other = sqlite3.connect(tmp_path / "c.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            store.put(Held(clearance(2)))
        assert ids(store) == ["task1"]  # readers are not locked out
        late = SqliteStore(tmp_path / "c.sqlite", NAMES)
        other.execute("ROLLBACK")
        late.put(Held(clearance(2)))
        assert ids(store) == ["task1", "task2"]

    @pytest.mark.parametrize("path", ["no/such/folder/c.sqlite", "."])
    def test_what_cannot_be_opened_is_said(self, tmp_path, path):
        with pytest.raises(StoreError):
            SqliteStore(tmp_path / path, NAMES)


class TestServer:
    def test_all_keys_are_ours_and_expire(self, server):
        server.client.flushall()
        store = RedisStore(server.url, NAMES)
        store.put(Held(clearance()))
        store.reject(PLACE, "task1")
        store.end(store.lead(PLACE, LEASE))
        keys = server.client.keys()
        assert len(keys) == 2  # the lead, and what was rejected; nothing is held
        assert all(key.startswith("ezcaptcha:") and server.client.ttl(key) > 0 for key in keys)

    def test_a_password_is_asked_for_and_never_shown(self, server):
        url = f"redis://user:s3cret@127.0.0.1:{server.port}"
        store = RedisStore(url, NAMES)
        assert "s3cret" not in str(store)
        with pytest.raises(StoreError) as caught:
            store.check()
        assert "s3cret" not in str(caught.value)

    def test_by_tls_it_must_be_vouched_for(self, tmp_path):
        if not RedisServer.is_installed():
            pytest.skip("redis-server is not installed")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        certificate = authority.issue_cert("127.0.0.1")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        server = RedisServer(tmp_path)
        names = {"tls-port": server.port, "port": 0, "tls-auth-clients": "no"}
        names |= {
            "tls-cert-file": "cert.pem",
            "tls-key-file": "key.pem",
            "tls-ca-cert-file": "ca.pem",
        }
        server.options |= names
        server.start()
        try:
            url = f"rediss://127.0.0.1:{server.port}"
            trusting = RedisStore(f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}", NAMES)
            trusting.put(Held(clearance()))
            assert ids(trusting) == ["task1"]
            with pytest.raises(StoreError, match=r"(?i)certificate verify failed"):
                RedisStore(url, NAMES).check()
        finally:
            server.stop()

    def test_what_others_wrote_there_is_an_error_and_no_crash(self, server):
        store = RedisStore(server.url, NAMES)
        server.client.set(f"ezcaptcha:held:{{{NAMES.name(PLACE)}}}", "no hash")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            store.get(PLACE)
        server.client.flushall()


class Stats(dict):
    def inc_value(self, key):
        self[key] = self.get(key, 0) + 1


class Unsteady(MemoryStore):
    """A store that others use too, and that the test takes down."""

    is_down = False

    def __getattribute__(self, name):
        if name in {"get", "put", "reject", "lead", "keep", "end", "check"} and self.is_down:
            raise StoreError("it is down")
        return super().__getattribute__(name)

    def __str__(self):
        return "unsteady"


async def sleep(reactor, seconds):
    done = Deferred()
    reactor.callLater(seconds, done.callback, None)
    await done


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(background, "_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(shared, "_FOLLOW_SECONDS", 0.01)
    monkeypatch.setattr(shared, "_FRESH_SECONDS", 0.0)


@pytest.fixture
def two(quick, running_reactor):
    """Two crawls that share a store, and that store."""
    behind = Unsteady()
    crawls = [SharedStore(behind, reactor=running_reactor, stats=Stats()) for _ in range(2)]
    return *crawls, behind


class TestSharing:
    def test_what_one_earns_the_other_has(self, two, run):
        ours, theirs, _ = two

        async def scenario():
            leading = await ours.lead(PLACE)
            assert await theirs.lead(PLACE) is None
            following = Deferred.fromCoroutine(theirs.follow(PLACE))
            leading.created("task1")
            ours.put(Held(clearance()))
            leading.end()
            await following
            found = theirs.held(PLACE)
            await ours.close()
            await theirs.close()
            return [held.clearance.id for held in found]

        assert run(scenario) == ["task1"]

    def test_a_failure_reaches_who_followed(self, two, run):
        ours, theirs, _ = two

        async def scenario(error):
            leading = await ours.lead(PLACE)
            assert await theirs.lead(PLACE) is None
            following = Deferred.fromCoroutine(theirs.follow(PLACE))
            await sleep(theirs._reactor, 0.03)
            leading.end(error)
            return await following

        refused = ApiError("ERROR_TASK_NOT_EXIST", "gone", status=200, task_id="task1")
        with pytest.raises(FailedElsewhere, match=r"in another process: .*gone") as caught:
            run(lambda: scenario(refused))
        assert caught.value.is_terminal()
        assert caught.value.task_id == "task1"
        for own in (GivenUp("MAX_TASKS", "our limit"), TransportError("no route", sent=False)):
            assert run(lambda own=own: scenario(own)) is None
        run(ours.close)
        run(theirs.close)

    def test_a_store_that_is_down_is_said_once_and_comes_back(self, two, run, caplog):
        ours, theirs, behind = two
        caplog.set_level("INFO", "scrapy_ezcaptcha")

        async def scenario():
            behind.is_down = True
            leading = await ours.lead(PLACE)  # alone
            ours.put(Held(clearance()))
            leading.end()
            for _ in range(5):
                await ours.freshen(PLACE)
            ours.reject((ZONE, OTHER_EXIT), "task9", unused=True)
            await sleep(ours._reactor, 0.1)
            behind.is_down = False
            while "answers again" not in caplog.text:
                await sleep(ours._reactor, 0.01)
            await ours.freshen(PLACE)
            await theirs.freshen(PLACE)
            await ours.close()
            await theirs.close()
            return [held.clearance.id for held in theirs.held(PLACE)]

        assert run(scenario) == ["task1"]
        warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1
        assert "The store unsteady does not answer (it is down)" in warnings[0]
        assert behind.is_rejected("task9")

    def test_a_store_that_forgot_everything_is_told_again(self, two, run):
        ours, theirs, behind = two

        async def scenario():
            ours.put(Held(clearance()))
            await ours.freshen(PLACE)
            behind._places.pop(PLACE)
            await ours.freshen(PLACE)
            await ours.freshen(PLACE)
            await theirs.freshen(PLACE)
            await ours.close()
            await theirs.close()
            return [held.clearance.id for held in theirs.held(PLACE)]

        assert run(scenario) == ["task1"]

    def test_a_bug_of_a_store_is_no_bug_of_the_crawl(self, two, run, monkeypatch):
        ours, theirs, behind = two
        monkeypatch.setattr(behind, "get", lambda place: 1 / 0)

        async def scenario():
            await ours.freshen(PLACE)
            leading = await ours.lead(PLACE)
            await ours.close()
            await theirs.close()
            return leading

        assert run(scenario) is not None

    def test_where_others_have_another_address_it_goes_on_alone(self, two, run, caplog):
        """Else all of them would reject each other's clearances, and pay in turn, for ever."""
        ours, theirs, _ = two

        async def scenario(ages):
            known = []
            for number, age in enumerate(ages):
                one = replace(clearance(age + number), created=time.time() - age)
                theirs.put(Held(one, accepted={ZONE}))
                await theirs.freshen(PLACE)
                await ours.freshen(PLACE)
                known.append(ours.find(PLACE, one.id) is not None)
                for _ in range(5):  # all that were in flight
                    ours.tried(one, works=False)
            return known

        assert run(lambda: scenario([900] * 6)) == [True] * 6  # old ones do wear out
        assert run(lambda: scenario([5] * 5)) == [True, True, True, False, False]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "another address" in caplog.text
        run(ours.close)
        run(theirs.close)

    def test_one_that_works_makes_up_for_those_that_do_not(self, two, run, caplog):
        ours, theirs, _ = two

        async def scenario():
            for number in range(9):
                one = replace(clearance(number), created=time.time())
                theirs.put(Held(one, accepted={ZONE}))
                await theirs.freshen(PLACE)
                await ours.freshen(PLACE)
                ours.tried(one, works=number % 3 == 2)
            await ours.close()
            await theirs.close()

        run(scenario)
        assert caplog.records == []

    def test_alone_nobody_is_asked_and_nothing_awaited(self):
        alone = SharedStore(None, reactor=Clock(), stats=Stats())
        alone.put(Held(clearance()))
        assert not alone.is_shared
        for coroutine in (alone.freshen(PLACE), alone.lead(PLACE), alone.close()):
            with pytest.raises(StopIteration):
                coroutine.send(None)

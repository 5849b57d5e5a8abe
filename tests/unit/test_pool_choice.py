"""Which exit of the pool a zone uses, by any history of choices and failures."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy.core.downloader.handlers.http11 import TunnelError
from scrapy.settings import BaseSettings
from twisted.internet import error as twisted_errors
from twisted.internet.error import ConnectionDone, TCPTimedOutError
from twisted.internet.error import TimeoutError as TxTimeoutError
from twisted.python.failure import Failure as TwistedFailure
from twisted.web.client import ResponseFailed

from scrapy_ezcaptcha.config import Config
from scrapy_ezcaptcha.crawl.exits import failure_of
from scrapy_ezcaptcha.crawl.pool import Choice, Pool, ranked
from scrapy_ezcaptcha.errors import ConfigurationError
from scrapy_ezcaptcha.exit import Exit

SECONDS = 300.0


class Request:
    """What stands for a request that is under way."""


def exits(count, gate="gate.example:8000"):
    return [Exit.parse(f"http://user{number}:s3cret@{gate}") for number in range(count)]


def choose(pool, zone, now=0.0, holders=(), request=None):
    return pool.choose(request or Request(), zone, now, lambda exit: exit in holders)


names = st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=60, unique=True)


@given(st.permutations(exits(6)), names)
def test_the_order_of_the_pool_does_not_matter(shuffled, zones):
    assert [ranked(zone, shuffled) for zone in zones] == [ranked(zone, exits(6)) for zone in zones]


def test_zones_are_spread_evenly():
    firsts = Counter(ranked(f"zone{number}.example", exits(10))[0] for number in range(5000))
    assert len(firsts) == 10
    assert all(400 < count < 600 for count in firsts.values())


def test_a_further_exit_moves_few_zones_and_only_to_itself():
    zones = [f"zone{number}.example" for number in range(2000)]
    before = {zone: ranked(zone, exits(10))[0] for zone in zones}
    after = {zone: ranked(zone, exits(11))[0] for zone in zones}
    moved = [zone for zone in zones if before[zone] != after[zone]]
    assert {after[zone] for zone in moved} == {exits(11)[-1]}
    assert 120 < len(moved) < 250  # an eleventh of them is 182


@given(st.integers(1, 12), st.integers(1, 3), names, st.text("xyz", max_size=4))
def test_a_pool_of_one_process_gives_no_exit_more_than_twice_its_share(count, each, zones, gate):
    pool = Pool(exits(count, f"gate{gate}.example"), each, SECONDS, is_alone=True)
    each = min(each, count)
    used = Counter(exit for zone in zones for exit in pool.ranking(zone)[:each])
    assert sum(used.values()) == len(zones) * each
    # With more than one per zone, a zone may find fewer exits with room than it uses.
    if each == 1:
        assert max(used.values()) <= max(2, -(-2 * len(zones) // count))


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.booleans()), max_size=40))
def test_a_benched_exit_is_never_chosen(history):
    pool, now = Pool(exits(4), 1, SECONDS), 0.0
    until: dict[Exit, float] = {}
    for number, zone, is_dead in history:
        now += 40.0
        if is_dead and (seconds := pool.bench(pool.exits[number], now)):
            until[pool.exits[number]] = now + seconds
        chosen = choose(pool, zone, now)
        able = [exit for exit in pool.exits if until.get(exit, 0.0) <= now]
        assert chosen is None or chosen in able
        if chosen in until:  # it is tried by this one request
            until[chosen] = now + SECONDS


def test_all_exits_are_benched():
    pool = Pool(exits(3), 1, SECONDS)
    for exit in pool.exits:
        assert pool.bench(exit, 0.0) == SECONDS
    assert choose(pool, "zone") is None
    assert not pool.has_any(SECONDS - 1)
    assert choose(pool, "zone", SECONDS) is not None


def test_one_request_tries_an_exit_whose_time_is_over():
    pool, request = Pool(exits(3), 1, SECONDS), Request()
    first = choose(pool, "zone")
    pool.bench(first, 0.0)
    assert choose(pool, "zone", SECONDS - 1) != first
    assert choose(pool, "zone", SECONDS, request=request) == first
    assert choose(pool, "zone", SECONDS) != first
    assert pool.worked(pool.ended(request))
    assert choose(pool, "zone", SECONDS) == first


def test_each_further_failure_doubles_the_time_up_to_a_bound():
    pool, now, times = Pool(exits(2), 1, SECONDS), 0.0, []
    first = pool.ranking("zone")[0]
    for _ in range(7):
        request = Request()
        assert choose(pool, "zone", now, request=request) == first
        times.append(pool.bench(first, now, pool.ended(request).number))
        now += times[-1]
    assert [seconds / SECONDS for seconds in times] == [1, 2, 4, 8, 16, 16, 16]


def test_requests_that_were_under_way_when_an_exit_failed_are_no_news():
    pool, requests = Pool(exits(2), 1, SECONDS), [Request() for _ in range(5)]
    first = {choose(pool, "zone", request=request) for request in requests}.pop()
    numbers = [pool.ended(request).number for request in requests]
    assert [pool.bench(first, 0.0, number) for number in numbers] == [SECONDS, *[None] * 4]


def test_an_exit_that_has_a_clearance_is_taken_before_the_first():
    pool = Pool(exits(10), 1, SECONDS)
    ranking = pool.ranking("zone")
    assert choose(pool, "zone", holders=ranking[2:]) == ranking[2]
    assert choose(pool, "zone", holders=ranking[3:]) == ranking[0]
    assert choose(pool, "zone", holders=ranking) == ranking[0]


def test_requests_go_where_the_fewest_of_their_zone_are_under_way():
    pool, requests = Pool(exits(6), 3, SECONDS), [Request() for _ in range(12)]
    chosen = {request: choose(pool, "zone", request=request) for request in requests}
    assert set(Counter(chosen.values()).values()) == {4}
    busy = chosen[requests[0]]
    for request in requests:
        if chosen[request] == busy:
            pool.ended(request)
    assert {choose(pool, "zone", request=request) for request in requests[:1]} == {busy}


def test_an_exit_benched_for_one_zone_serves_the_others():
    pool = Pool(exits(3), 1, SECONDS)
    first = pool.ranking("zone")[0]
    pool.bench(first, 0.0, zone="zone")
    assert choose(pool, "zone") != first
    assert pool.can_leave(first, "zone", 0.0)
    other = next(name for name in map(str, range(99)) if pool.ranking(name)[0] == first)
    assert choose(pool, other) == first
    for exit in pool.exits:  # then the zone keeps its first one
        pool.bench(exit, 0.0, zone="zone")
    assert choose(pool, "zone") == first
    assert not pool.can_leave(first, "zone", 0.0)


def reached(pool, zone, exit):
    """Note that *zone* answered by *exit*; return who is to blame for not having reached it."""
    return pool.blamed(Choice(zone, exit, 1))


def test_sites_that_no_exit_reaches_are_no_fault_of_an_exit():
    pool = Pool(exits(3), 1, SECONDS)
    first, second, third = pool.exits
    for zone in ("one", "two", "three"):
        for exit in pool.exits:
            assert pool.doubt(exit, zone, is_lost=False)
    assert reached(pool, "four", first) == []
    assert reached(pool, "one", second) == []
    assert reached(pool, "one", third) == []  # the same one again
    assert set(reached(pool, "two", second)) == {first, third}


def test_a_zone_loses_some_connections_before_its_exit_is_doubted():
    pool = Pool(exits(3), 1, SECONDS)
    lost = [pool.doubt(pool.exits[1], "one", is_lost=True) for _ in range(3)]
    assert lost == [False, False, True]


def test_the_request_that_tries_an_exit_does_not_leave_it():
    pool = Pool(exits(2), 1, SECONDS)
    first, before, request = pool.ranking("zone")[0], Request(), Request()
    choose(pool, "zone", request=before)
    pool.bench(first, 0.0)
    assert choose(pool, "zone", SECONDS, request=request) == first
    assert pool.tries(request, first)
    assert not pool.tries(before, first)


def test_only_useless_clearances_give_a_zone_up():
    pool = Pool(exits(2), 1, SECONDS)
    first, second = pool.exits
    pool.bench(first, 0.0, zone="zone")
    assert pool.useless_for("zone", 1.0) == []
    assert pool.bench(first, 1.0, zone="zone", is_useless=True) is not None
    pool.bench(second, 1.0, zone="zone", is_useless=True)
    assert pool.useless_for("zone", 1.0) == [first, second]
    assert pool.bench(second, 2.0, zone="zone", is_useless=True) is None


class DownloadConnectionRefusedError(Exception):
    """As scrapy.exceptions has it since 2.15."""


class DownloadTimeoutError(Exception):
    """Likewise."""


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("exception", "verdict"),
    [
        (twisted_errors.ConnectionRefusedError(), "sure"),
        (DownloadConnectionRefusedError(), "sure"),
        (TCPTimedOutError(), "sure"),
        (caused(DownloadTimeoutError(), TCPTimedOutError()), "sure"),
        (DownloadTimeoutError("Getting the page took longer than 180 seconds."), "perhaps"),
        (TxTimeoutError("Getting the page took longer than 180 seconds."), "perhaps"),  # 2.14
        (TxTimeoutError(), "sure"),
        (TunnelError("Could not open CONNECT tunnel with proxy p:1 [{'status': 407}]"), "sure"),
        (TunnelError("Could not open CONNECT tunnel with proxy p:1 [{'status': 502}]"), "perhaps"),
        (ConnectionDone(), "perhaps"),
        (ResponseFailed([TwistedFailure(ConnectionDone())]), "perhaps"),
        (ResponseFailed([TwistedFailure(ValueError())]), None),
        (ValueError(), None),
    ],
)
def test_whose_fault_an_exception_is(exception, verdict):
    failure = failure_of(exception)
    assert verdict == (None if failure is None else "sure" if failure.is_sure else "perhaps")


ONE, TWO = "http://user:s3cret@one.example:80", "http://user:s3cret@two.example:80"


def config_of(value, **more):
    return Config.from_settings(BaseSettings({"EZCAPTCHA_PROXIES": value, **more}), {})


@pytest.mark.parametrize("value", [[ONE, TWO], (ONE, TWO), f"{ONE},{TWO}", f" {ONE} , {TWO} "])
def test_a_pool_is_a_list_or_a_string_with_commas(value):
    assert [exit.url for exit in config_of(value).proxies] == [ONE, TWO]


@pytest.mark.parametrize("value", [None, "", [], ()])
def test_there_is_no_pool_by_default(value):
    assert config_of(value).proxies == ()


def test_a_pool_may_stand_in_a_file(tmp_path):
    file = tmp_path / "proxies.txt"
    file.write_text(f"# ours\n{ONE}\n\n  {TWO}  \n")
    for path in (file, str(file)):
        assert [exit.url for exit in config_of(path).proxies] == [ONE, TWO]
    file.write_text(f"# ours\n{ONE}\nhttp://two.example\n")
    with pytest.raises(ConfigurationError, match=r"EZCAPTCHA_PROXIES: line 3: .*no user name"):
        config_of(file)
    file.write_text(f"{ONE}\n", encoding="utf-8-sig")  # as Windows' editor does
    assert [exit.url for exit in config_of(file).proxies] == [ONE]


@pytest.mark.parametrize("text", ["", "# none yet\n\n"])
def test_a_file_without_proxies_stops_the_crawl(tmp_path, text):
    file = tmp_path / "proxies.txt"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="a file without a proxy"):
        config_of(file)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([ONE, "http://user:s3cret@:80"], "entry 2: the proxy is not a URL"),
        ([ONE, None], "entry 2: the proxy is not a URL"),
        ([ONE, "http://two.example:80"], "entry 2: .* has no user name and password"),
        ([ONE, TWO, ONE], "entry 3 is the same as entry 1"),
        (["http://user:s3cret@10.0.0.1:80", ONE], "entry 1: .*private"),
        ("/no/such/s3cret-file", "cannot be read: No such file"),
        (17, "entry 1"),
    ],
)
def test_what_is_unusable_is_named_by_its_number_without_the_secret(value, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        config_of(value)
    assert "s3cret" not in str(caught.value)


def test_private_proxies_are_fine_where_the_service_is_here():
    config = config_of(
        [ONE.replace("one.example", "127.0.0.1")], EZCAPTCHA_API_URL="http://127.0.0.1:1"
    )
    assert len(config.proxies) == 1


def test_at_least_one_exit_per_zone():
    assert config_of([ONE], EZCAPTCHA_PROXIES_PER_ZONE="2").proxies_per_zone == 2
    with pytest.raises(ConfigurationError, match="EZCAPTCHA_PROXIES_PER_ZONE is 0"):
        config_of([ONE], EZCAPTCHA_PROXIES_PER_ZONE=0)

"""The bench's pure parts: what generators say is read rightly, values are judged and shown. Nothing is timed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import figures
from loadtests.figures import AT_MOST, BELOW, Figure, Results
from loadtests.generators import OpenLoop, parse_h2load, parse_log, parse_wrk
from loadtests.latency import percentile
from loadtests.machine import MeasurementFailed, undisturbed
from loadtests.requests import SEPARATOR, whole_requests, write_requests

README = Path(__file__).parents[2] / "loadtests" / "README.md"

WRK = """Running 3s test @ http://127.0.0.1:8080/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.56ms    1.23ms  10.97ms   79.90%
  59412 requests in 3.01s, 20.74MB read
Requests/sec:  19764.01
counted requests=59412 microseconds=3006071 connect=0 read=0 write=0 status={status} timeout=0
"""

H2LOAD = """starting benchmark...
progress: 100% done

finished in 3.01s, 25553.50 req/s, 9.04MB/s
requests: 76800 total, 76800 started, 76800 done, 76800 succeeded, {failed} failed, 0 errored, 0 timeout
status codes: 0 2xx, {found} 3xx, {refused} 4xx, 0 5xx
traffic: 27.17MB (28492800) total, 12.01MB (12595200) headers (space savings 0.00%), 10.62MB (11136000) data
"""


# --- the machine -----------------------------------------------------------------------------------------------------


def _policy_of_a_child() -> int:
    asks = "import os; print(os.sched_getscheduler(0))"
    return int(subprocess.run([sys.executable, "-c", asks], capture_output=True, check=True).stdout)


def test_what_is_measured_undisturbed_runs_before_ordinary_processes() -> None:
    before = os.sched_getscheduler(0)
    with undisturbed() as is_undisturbed:
        assert _policy_of_a_child() == (os.SCHED_RR if is_undisturbed else before)
    assert _policy_of_a_child() == os.sched_getscheduler(0) == before


def test_who_may_not_measure_undisturbed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuses)
    before = os.sched_getscheduler(0)
    with undisturbed() as is_undisturbed:
        assert not is_undisturbed
        assert os.sched_getscheduler(0) == before


def test_who_is_asked_to_end_tidies_up() -> None:
    program = """if True:
        import time
        from loadtests import machine
        machine.end_in_order()
        try:
            print("runs", flush=True)
            time.sleep(600)
        finally:
            print("tidied up")
        """
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        process.terminate()
        assert process.stdout.read() == "tidied up\n"
    assert process.returncode == 128 + signal.SIGTERM


# --- generators ------------------------------------------------------------------------------------------------------


def test_wrk_is_read() -> None:
    answered = parse_wrk(WRK.format(status=0), 2.4)
    assert (answered.answers, answered.seconds, answered.cpu_seconds) == (59_412, 3.006071, 2.4)
    assert answered.per_second == pytest.approx(19_764, abs=1)


@pytest.mark.parametrize(("output", "says"), [(WRK.format(status=7), "status 7"), ("unable to connect", "unable")])
def test_wrk_with_failures_is_no_figure(output: str, says: str) -> None:
    with pytest.raises(MeasurementFailed, match=says):
        parse_wrk(output)


def test_h2load_is_read() -> None:
    answered = parse_h2load(H2LOAD.format(failed=0, found=76_800, refused=0), 0.8)
    assert (answered.answers, answered.seconds, answered.cpu_seconds) == (76_800, 3.01, 0.8)


@pytest.mark.parametrize(("duration", "seconds"), [("812.50ms", 0.8125), ("1.50m", 90.0), ("180.02s", 180.02)])
def test_h2loads_durations_have_units(duration: str, seconds: float) -> None:
    output = H2LOAD.format(failed=0, found=76_800, refused=0).replace("3.01s", duration)
    assert parse_h2load(output).seconds == pytest.approx(seconds)


@pytest.mark.parametrize(("failed", "refused"), [(3, 0), (0, 2)])
def test_h2load_with_failures_is_no_figure(failed: int, refused: int) -> None:
    with pytest.raises(MeasurementFailed, match=f"{failed} failed and {refused} were refused"):
        parse_h2load(H2LOAD.format(failed=failed, found=76_800 - refused, refused=refused))


def test_the_log_is_read_behind_the_warm_up() -> None:
    rows = ("29000000\t302\t900", "29999999\t302\t800", "30000000\t302\t655", "30500000\t200\t40")
    log = "".join(f"17955449{row}\n" for row in rows)
    assert parse_log(log, 1.0) == [655, 40]
    with pytest.raises(MeasurementFailed, match="1 requests were refused"):
        parse_log(log + "1795544930600000\t404\t50\n", 1.0)


@given(st.integers(250, 100_000), st.sampled_from([89, 250]))
def test_an_open_loop_asks_at_nearly_the_wanted_rate(rate: int, client_rate: int) -> None:
    load = OpenLoop(8080, Path("uris"), [("Host", "links.example"), ("DNT", "1")], rate, 10, client_rate)
    assert abs(load.exact_rate - rate) <= client_rate / 2
    assert load.requests == 10 * load.exact_rate


@given(st.lists(st.integers(0, 10**6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_this_part_does_not_exceed(values: list[int], part: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, part)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= part * len(ordered)
    assert sum(value < found for value in ordered) < part * len(ordered)


# --- requests --------------------------------------------------------------------------------------------------------


def test_requests_are_a_browsers(tmp_path: Path) -> None:
    paths = [f"/c/{number:0>270}" for number in range(500)]
    requests = list(whole_requests(paths))
    assert requests == list(whole_requests(paths))
    assert requests == write_requests(tmp_path / "requests", paths).read_bytes().split(SEPARATOR)
    for path, request in zip(paths, requests, strict=True):
        line, *headers = request.removesuffix(b"\r\n\r\n").split(b"\r\n")
        assert f"GET {path} HTTP/1.1".encode() == line
        assert 16 == len({header.partition(b":")[0].lower() for header in headers}) == len(headers)
        assert not any(header.lower().startswith((b"upgrade:", b"connection:")) for header in headers)
    assert 100 < len({request.partition(b"User-Agent: ")[2].partition(b"\r\n")[0] for request in requests})
    assert 850 < sum(map(len, requests)) / len(requests) < 1050


def test_a_closing_request_is_the_same_but_for_that() -> None:
    keeping, closing = next(whole_requests(["/c/x"])), next(whole_requests(["/c/x"], close=True))
    assert keeping.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") == closing


# --- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figure", "value", "holds"),
    [
        (Figure("rate", "", 0.37, 0.6), 0.37, True),
        (Figure("rate", "", 0.37, 0.6), 0.369, False),
        (Figure("p99", "", 3, 1.5, AT_MOST), 3.0, True),
        (Figure("p99", "", 3, 1.5, AT_MOST), 3.01, False),
        (Figure("growth", "MB", 5, 0, BELOW), 5.0, False),
        (Figure("growth", "MB", 5, 0, BELOW), -0.1, True),
        (Figure("rate", "", 0.37, 0.6), None, False),
        (Figure("besides"), 1.0, None),
    ],
)
def test_a_must_is_kept_or_not(figure: Figure, value: float | None, holds: bool | None) -> None:
    assert figure.holds(value) is holds


def test_ratios_are_taken_within_rounds() -> None:
    # The second round was disturbed for both, and its ratio was not.
    assert figures.ratios([50, 20, 60], [100, 40, 120]) == [0.5, 0.5, 0.5]


def test_what_is_asked_comes_first_and_in_its_order() -> None:
    results = Results()
    results.add(Figure("nginx", "requests/s"), [100_000.0])
    results.fail(figures.ASKED[2:], "not tried")
    results.add(figures.ASKED[1], [2.0])
    results.add(figures.ASKED[0], [0.5])
    assert [*(figure.name for figure in figures.ASKED), "nginx"] == [each.figure.name for each in results.in_order()]


def test_a_failure_takes_no_figure_away() -> None:
    results = Results()
    results.add(figures.MINTED, [400_000.0])
    results.fail([figures.MINTED, figures.RSS_GROWTH], "it fell over")
    assert [400_000.0, None] == [each.value for each in results.in_order()]
    assert [True, False] == [each.holds for each in results.in_order()]


@given(st.lists(st.lists(st.floats(0.1, 10), min_size=1, max_size=5), min_size=2, max_size=4))
def test_several_runs_give_the_median_of_their_values(runs: list[list[float]]) -> None:
    each = [Results() for _ in runs]
    for results, rounds in zip(each, runs, strict=True):
        results.add(figures.FAST_TO_NGINX, rounds)
    (merged,) = figures.over_runs(each).in_order()
    assert merged.value == median(median(rounds) for rounds in runs)
    assert list(merged.runs) == [median(rounds) for rounds in runs]
    assert list(merged.rounds) == [value for rounds in runs for value in rounds]


def test_results_are_written_as_objects() -> None:
    results = Results()
    results.add(figures.FAST_TO_NGINX, [0.5, 0.612345, 0.7], "undisturbed")
    results.add(Figure("nginx", "requests/s"), [123_456.0])
    asked, besides = json.loads(figures.as_json(results, valid=True))
    assert asked == {
        "figure": figures.FAST_TO_NGINX.name,
        "value": 0.6123,
        "unit": "",
        "must": 0.37,
        "aim": 0.6,
        "holds": True,
        "rounds": [0.5, 0.6123, 0.7],
        "note": "undisturbed",
    }
    assert (besides["value"], besides["must"], besides["holds"]) == (123_500, None, None)
    assert all(each["valid"] is False for each in json.loads(figures.as_json(results, valid=False)))


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.6123, "0.612"), (123_456, "123,000"), (9, "9"), (2.205, "2.21"), (0, "0")]
)
def test_values_are_shown_with_three_digits(value: float | None, text: str) -> None:
    assert figures.shown(value) == text


def test_the_table_is_renewed_between_its_markers(tmp_path: Path) -> None:
    results = Results()
    results.add(figures.RSS_GROWTH, [0.4])
    results.add(Figure("nginx", "requests/s"), [120_000.0], "server 99% busy")
    document = tmp_path / "README.md"
    document.write_text(README.read_text())
    before, after = README.read_text().split(figures.BEGIN)[0], README.read_text().split(figures.END)[1]
    for _ in range(2):
        figures.renew(document, figures.as_markdown(results))
        text = document.read_text()
        assert text.startswith(before)
        assert text.endswith(after)
        assert "| RSS growth per 10 million requests | 0.4 MB | < 5 | 0 | ✓ |  |\n" in text
        assert 1 == text.count("| nginx | 120,000 requests/s | server 99% busy |\n")


def test_a_document_without_markers_is_left_alone(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text("nothing to renew\n")
    with pytest.raises(ValueError, match="needs a line"):
        figures.renew(document, "table")
    assert "nothing to renew\n" == document.read_text()

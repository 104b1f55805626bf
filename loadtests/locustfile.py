"""`make load`: recipients of two mailings, and whether all that they did is in the database.

    python -m locust -f loadtests/locustfile.py --headless --users 50 --run-time 60s [--host URL] [--recipients 3000]

Locust's users are not recipients but hands: each makes the next request of the plan at its moment, over a connection of
its own, as clients do that have nothing to do with each other. Invariant: none is stopped between question and answer.
"""

# Locust has types, but not for the registration of listeners and for waiting.
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

import random
import sys
import threading
import time
from typing import Any, NoReturn

import click
import gevent  # type: ignore[import-untyped]
from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import LocalRunner
from rich.console import Console

from app import config
from app.errors import MailtrailError
from loadtests.agenda import Agenda, Answered, Request
from loadtests.attempts import OneAttempt
from loadtests.recipients import plan
from loadtests.sender import LINKS, LoadFailed, Post, Sender, check_host
from loadtests.server import check_answer, wait_for_keys
from loadtests.verdict import Verdict, judge

RUN_SECONDS = 60
ACTIVE_PART = 0.9
"""The part of the run time that is planned; the rest is for requests that are late."""

ANSWER_SECONDS = 10.0
LATE_SECONDS = 1.0
TOLD_EVERY_SECONDS = 5.0


class Load:
    """One run: what was sent, what is asked, when it began and what came out."""

    def __init__(self, sender: Sender, post: Post, agenda: Agenda) -> None:
        self.sender, self.post, self.agenda = sender, post, agenda
        self.begun = 0.0
        self.latest_seconds = 0.0
        self.verdict: Verdict | None = None
        self.is_told = False
        self._concluding = threading.Lock()

    def seconds_until(self, request: Request) -> float:
        """How long it must wait; how late it is otherwise is remembered."""
        seconds = self.begun + request.visit.at_seconds - time.monotonic()
        self.latest_seconds = max(self.latest_seconds, -seconds)
        return max(0.0, seconds)

    def conclude(self) -> Verdict:
        """The verdict, reached once: after SIGTERM two greenlets shut locust down."""
        with self._concluding:
            if self.verdict is None:
                recorded, figures = self.sender.recorded(self.post, self.agenda.ledger)
                self.verdict = judge(self.agenda, recorded, figures)
        return self.verdict


load: Load


class Client(FastHttpUser):
    """Takes one request after the other from the agenda."""

    network_timeout = connection_timeout = ANSWER_SECONDS
    request: Request

    def __init__(self, environment: Environment) -> None:
        self.client_pool = OneAttempt(network_timeout=ANSWER_SECONDS, connection_timeout=ANSWER_SECONDS, concurrency=1)
        super().__init__(environment)

    def wait_time(self) -> float:
        return load.seconds_until(self.request)

    @task
    def make_request(self) -> None:
        """The next request of the plan, at its moment."""
        request = load.agenda.take()
        if request is None:
            raise StopUser
        self.request = request
        self.wait()  # here, and only here, it may be stopped
        visit = request.visit
        with self.client.request(
            visit.method,
            request.path,
            name=visit.name,
            headers={**dict(visit.visitor.headers), "Connection": "close"},
            allow_redirects=False,
            catch_response=True,
        ) as response:
            location = response.headers.get("location") if response.headers else None
            problem = load.agenda.note(request, Answered(response.status_code, location, response.content or b""))
            if problem:
                response.failure(f"{problem} ({response.error})" if not response.status_code else problem)
            else:
                response.success()


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--recipients", type=int, default=3_000, help="Mails that are sent, each to somebody else.")
    parser.add_argument("--allow-remote", action="store_true", help="Load a server that is not on this machine.")
    parser.add_argument("--seed", type=int, default=None, help="Repeats the plan of another run.")


@events.init.add_listener
def prepare(environment: Environment, runner: object, **_: Any) -> None:
    """Sends the mails and waits until the server knows their keys; what a person can mend ends the run in one line."""
    global load
    try:
        if not isinstance(runner, LocalRunner):
            raise LoadFailed("what was sent is known to one process only; run it without --master and --worker")
        load = _prepare(environment)
    except MailtrailError as error:
        _give_up(error)


def _prepare(environment: Environment) -> Load:
    options, settings = environment.parsed_options, config.load()
    assert options is not None
    environment.host = (environment.host or settings.public_url).rstrip("/")
    environment.stop_timeout = environment.stop_timeout or ANSWER_SECONDS
    check_host(environment.host, remote_allowed=options.allow_remote)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    chance = random.Random(seed)
    check_answer(environment.host)
    sender = Sender(settings)
    post = sender.send(options.recipients, chance)
    agenda = Agenda(post, plan(options.recipients, LINKS, (options.run_time or RUN_SECONDS) * ACTIVE_PART, chance))
    wait_for_keys(environment.host, post.mails[0].tokens[1])
    click.echo(
        f"{options.recipients:,} mails are sent in the space {post.name!r}; {agenda.planned:,} requests follow"
        f" to {environment.host} (--seed {seed})"
    )
    return Load(sender, post, agenda)


def _give_up(error: MailtrailError) -> NoReturn:
    click.echo(f"load: {error}", err=True)
    sys.exit(error.exit_code)


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    load.begun = time.monotonic()
    gevent.spawn(_watch, environment)


def _watch(environment: Environment) -> None:
    """Tells how far it is, and ends the run with the plan."""
    agenda, before, told = load.agenda, 0, load.begun
    while not agenda.is_over:
        gevent.sleep(0.1)
        now = time.monotonic()
        if now > told + TOLD_EVERY_SECONDS or agenda.is_over:
            rate = (agenda.made - before) / (now - told)
            click.echo(f"{now - load.begun:5.0f} s  {agenda.made:9,} of {agenda.planned:,} requests  {rate:7,.0f}/s")
            before, told = agenda.made, now
    if environment.runner is not None:
        environment.runner.quit()


@events.quitting.add_listener
def conclude(environment: Environment, **_: Any) -> None:
    """Compares when everybody has got an answer; the exit code says whether anything differs."""
    if environment.runner is not None:
        environment.runner.quit()
    try:
        if load.conclude().differences:
            environment.process_exit_code = 1
    except MailtrailError as error:
        _give_up(error)


@events.quit.add_listener
def tell(**_: Any) -> None:
    """After locust's own tables."""
    if load.verdict is None or load.is_told:
        return
    load.is_told = True
    if load.latest_seconds > LATE_SECONDS:
        click.echo(f"requests were up to {load.latest_seconds:.1f} s late: give more users, or fewer recipients")
    load.verdict.show(Console(highlight=False))

"""What can go wrong around the relay: the client gets the truth, and no mail is lost or sent twice beyond SMTP."""

import os
import smtplib
import time
from collections.abc import Iterator

import pytest

from tests.integration.receiver import Receiver
from tests.integration.relaying import HTML, SENDER, RelayRig, relaying, send, with_fields
from tests.integration.service import Service, free_port, query, until

RECIPIENTS = ["a@example.com", "b@example.com", "c@example.com"]
SLOW_SECONDS = 4.0


@pytest.fixture(scope="module")
def rig(service: Service) -> Iterator[RelayRig]:
    with relaying(service, timeout_seconds=str(SLOW_SECONDS)) as made:
        yield made


@pytest.fixture(autouse=True)
def fresh(rig: RelayRig) -> None:
    rig.receiver.behave()
    query(rig.service.database_url, "delete from mailtrail.relayed")


def mail(text: str) -> bytes:
    """One that is not like another."""
    return with_fields(HTML, f"Subject: {text} {os.urandom(4).hex()}")


def received_by(receiver: Receiver) -> list[str]:
    return [recipient for each in receiver.mails for recipient in each.recipients]


# --- the next mail server --------------------------------------------------------------------------------------------


def test_down_and_there_again(rig: RelayRig) -> None:
    port = free_port()
    receiver = Receiver(port=port)
    apart = RelayRig(rig.service, receiver, keys=rig.keys)
    process = apart.start(space="Anonymous")
    with apart.client() as client:
        assert client.mail(SENDER) == (451, b"4.4.1 the next mail server cannot be reached; try again later")
        with receiver:
            assert send(client, HTML)[0] == 250
        assert client.mail(SENDER)[0] == 451
    process.terminate()
    assert process.wait(30) == 0


@pytest.mark.parametrize("space", ["Off", "Anonymous", "Personal"])
@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
def test_slow(rig: RelayRig, space: str, command: str) -> None:
    rig.receiver.slow.add(command)
    begun = time.monotonic()
    assert step_of(rig, space, HTML) == (
        command,
        451,
        b"4.4.2 the next mail server did not answer in time; try again later",
    )
    assert SLOW_SECONDS <= time.monotonic() - begun < 10 * SLOW_SECONDS
    rig.receiver.behave()
    assert rig.send(space, HTML)[0] == 250


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
def test_ends_the_connection(rig: RelayRig, command: str) -> None:
    rig.receiver.drops.add(command)
    before = rig.metric('mailtrail_relay_refusals_total{reason="upstream_lost"}')
    assert step_of(rig, "Anonymous", HTML) == (
        command,
        451,
        b"4.4.2 the next mail server ended the connection; try again later",
    )
    # After DATA it may have the mail; nobody can know, and SMTP allows that it gets it again.
    assert received_by(rig.receiver) == (["erika@example.com"] if command == "DATA" else [])
    assert rig.metric('mailtrail_relay_refusals_total{reason="upstream_lost"}') == before + 1


def step_of(rig: RelayRig, space: str, content: bytes) -> tuple[str, int, bytes]:
    """Where a mail did not go on, and the answer."""
    with rig.client(space) as client:
        for command, step in (
            ("MAIL", lambda: client.mail(SENDER)),
            ("RCPT", lambda: client.rcpt("erika@example.com")),
            ("DATA", lambda: client.data(content)),
        ):
            code, text = step()
            if code != 250:
                return command, code, text
    raise AssertionError("it went on")


@pytest.mark.parametrize("reply", ["550 5.7.1 spam", "452 4.3.1 full", "552-5.3.4 too\r\n552 5.3.4 large"])
@pytest.mark.parametrize("space", ["Off", "Anonymous"])
def test_its_refusal_of_a_mail_is_the_answer(rig: RelayRig, reply: str, space: str) -> None:
    rig.receiver.data_replies["erika@example.com"] = reply
    code, text = rig.send(space, with_fields(HTML, "X-Mailtrail-Group: refused"))
    assert (code, text) == (int(reply[:3]), "\n".join(line[4:] for line in reply.split("\r\n")))
    assert rig.counted("refused") == []


def test_its_refusal_of_a_sender_is_the_answer(rig: RelayRig) -> None:
    rig.receiver.mail_replies += ["550 5.7.1 not you", "451 4.7.1 later"]
    with rig.client("Anonymous") as client:
        assert client.mail(SENDER) == (550, b"5.7.1 not you")
        assert client.mail(SENDER) == (451, b"4.7.1 later")
        assert send(client, HTML)[0] == 250


def test_a_421_is_for_the_relay_and_not_for_its_client(rig: RelayRig) -> None:
    rig.send("Anonymous", HTML)  # leaves a session behind that is used again
    rig.receiver.mail_replies += ["421 4.3.2 going down"]
    with rig.client("Anonymous") as client:
        assert send(client, HTML)[0] == 250
        rig.receiver.hang_up()
        rig.receiver.mail_replies += ["421 4.3.2 going down", "421 4.3.2 still going down"]
        until(
            lambda: client.mail(SENDER) == (451, b"4.3.2 still going down") or client.rset() is None,
            "a 421 is passed on",
        )
        rig.receiver.behave()
        assert send(client, HTML)[0] == 250


def test_an_idle_session_that_it_has_ended_is_nobodys_trouble(rig: RelayRig) -> None:
    for _ in range(3):
        assert rig.send("Anonymous", HTML)[0] == 250
        rig.receiver.hang_up()
    assert len(rig.receiver.mails) == 3


def test_a_session_that_ends_just_when_it_is_used_again_is_nobodys_trouble(rig: RelayRig) -> None:
    rig.send("Anonymous", HTML)
    rig.receiver.dropped_mails = 1
    assert rig.send("Anonymous", HTML)[0] == 250
    assert len(rig.receiver.mails) == 2


def test_sessions_are_used_again(rig: RelayRig) -> None:
    rig.send("Anonymous", HTML)
    before = rig.receiver.connections
    for _ in range(5):
        rig.send("Anonymous", HTML)
    assert rig.receiver.connections == before


# --- several recipients ----------------------------------------------------------------------------------------------


def test_one_of_three_is_refused_at_once(rig: RelayRig) -> None:
    rig.receiver.rcpt_replies["b@example.com"] = "550 5.1.1 nobody"
    with rig.client("Personal") as client:
        refused = client.sendmail(SENDER, RECIPIENTS, mail("three"))
    assert refused == {"b@example.com": (550, b"5.1.1 nobody")}
    assert received_by(rig.receiver) == ["a@example.com", "c@example.com"]


def test_all_are_refused(rig: RelayRig) -> None:
    rig.receiver.rcpt_replies.update(dict.fromkeys(RECIPIENTS, "550 5.1.1 nobody"))
    with rig.client("Personal") as client, pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        client.sendmail(SENDER, RECIPIENTS, mail("none"))
    assert set(refused.value.recipients) == set(RECIPIENTS)
    assert rig.receiver.mails == []


def test_who_has_it_does_not_get_it_again(rig: RelayRig) -> None:
    content = mail("deferred")
    rig.receiver.data_replies["b@example.com"] = "452 4.2.2 full"
    answer = (451, "4.3.0 2 of 3 recipients have it; send it again for the rest")
    assert rig.send("Personal", content, *RECIPIENTS) == answer
    assert received_by(rig.receiver) == ["a@example.com", "c@example.com"]
    assert rig.send("Personal", content, *RECIPIENTS) == answer
    assert len(rig.receiver.mails) == 2
    rig.receiver.data_replies.clear()
    code, _ = rig.send("Personal", content, *RECIPIENTS)
    assert code == 250
    assert received_by(rig.receiver) == ["a@example.com", "c@example.com", "b@example.com"]
    assert rig.service.query("select * from mailtrail.relayed") == []


def test_what_is_kept_of_them_names_nobody(rig: RelayRig) -> None:
    rig.receiver.data_replies["b@example.com"] = "452 4.2.2 full"
    rig.send("Personal", mail("kept"), *RECIPIENTS)
    rows = rig.service.query("select * from mailtrail.relayed")
    assert [len(row["recipient"]) for row in rows] == [32, 32]
    assert not [row for row in rows if b"example" in row["envelope"] + row["recipient"]]


def test_another_mail_is_another_envelope(rig: RelayRig) -> None:
    rig.receiver.data_replies["b@example.com"] = "452 4.2.2 full"
    rig.send("Personal", mail("first"), *RECIPIENTS)
    rig.receiver.behave()
    assert rig.send("Personal", mail("second"), *RECIPIENTS)[0] == 250
    assert received_by(rig.receiver) == RECIPIENTS


def test_one_of_three_is_refused_for_good(rig: RelayRig) -> None:
    content = mail("for good")
    rig.receiver.data_replies["b@example.com"] = "550 5.7.1 not to them"
    answer = (554, "5.0.0 2 of 3 recipients have it, do not send it again; refused: 550 5.7.1 not to them")
    assert rig.send("Personal", content, *RECIPIENTS) == answer
    assert rig.send("Personal", content, *RECIPIENTS) == answer
    assert received_by(rig.receiver) == ["a@example.com", "c@example.com"]


def test_where_the_first_is_refused_nobody_gets_it(rig: RelayRig) -> None:
    rig.receiver.data_replies["a@example.com"] = "550 5.7.1 spam"
    assert rig.send("Personal", mail("spam"), *RECIPIENTS) == (550, "5.7.1 spam")
    assert rig.receiver.mails == []
    assert rig.service.query("select * from mailtrail.relayed") == []


def test_the_connection_ends_between_copies(rig: RelayRig) -> None:
    content = mail("cut")
    rig.receiver.data_replies["b@example.com"] = "421 4.3.2 going down"
    rig.receiver.rcpt_replies["never@example.com"] = "550 5.1.1 nobody"
    assert rig.send("Personal", content, *RECIPIENTS)[0] == 451
    rig.receiver.behave()
    assert rig.send("Personal", content, *RECIPIENTS)[0] == 250
    assert received_by(rig.receiver) == ["b@example.com"]


def test_a_client_that_does_not_wait_sends_to_nobody_twice(rig: RelayRig) -> None:
    content = mail("impatient")
    rig.receiver.delay_seconds = 0.2
    with rig.client("Personal") as client:
        client.mail(SENDER)
        for recipient in RECIPIENTS:
            client.rcpt(recipient)
        client.docmd("DATA")
        client.send(content + b".\r\n")
    until(lambda: len(rig.receiver.mails) == 3, "the mail arrives all the same")
    until(lambda: len(rig.service.query("select * from mailtrail.relayed")) == 3, "it is noted who has it")
    assert rig.send("Personal", content, *RECIPIENTS)[0] == 250
    assert received_by(rig.receiver) == RECIPIENTS


# --- the client ------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_in_the_middle_sends_nothing(rig: RelayRig) -> None:
    rig.receiver.hang_up()
    until(lambda: rig.receiver.open_connections == 0, "no session with the next server is left")
    with rig.client("Anonymous") as client:
        client.mail(SENDER)
        client.rcpt("erika@example.com")
        client.docmd("DATA")
        client.send(HTML[:50])
        assert rig.receiver.open_connections == 1
    until(lambda: rig.receiver.open_connections == 0, "the envelope is dropped")
    with rig.client("Anonymous") as client:
        assert send(client, HTML)[0] == 250
    assert len(rig.receiver.mails) == 1


def test_an_envelope_that_is_given_up_leaves_nothing_behind(rig: RelayRig) -> None:
    with rig.client("Anonymous") as client:
        client.mail("first@shop.example")
        client.rcpt("not-them@example.com")
        client.rset()
        assert send(client, HTML)[0] == 250
    (only,) = rig.receiver.mails
    assert (only.sender, only.recipients) == (SENDER, ["erika@example.com"])


def test_signed_mails_are_refused_where_that_is_set(rig: RelayRig) -> None:
    strict = RelayRig(rig.service, rig.receiver, keys=rig.keys)
    process = strict.start(space="Anonymous", MAILTRAIL_SIGNED_MAILS="refuse")
    with strict.client() as client:
        code, text = send(client, b"DKIM-Signature: v=1\r\n" + HTML)
        assert (code, text[:5]) == (554, "5.6.0")
        assert send(client, HTML)[0] == 250
    process.terminate()
    assert process.wait(30) == 0


# --- the database ----------------------------------------------------------------------------------------------------


def test_without_the_database_mails_are_deferred(rig: RelayRig, server_url: str) -> None:
    name = rig.service.database_url.partition("?")[0].rpartition("/")[2]
    with rig.client("Anonymous") as client:
        assert send(client, HTML)[0] == 250
        query(server_url, f"alter database {name} allow_connections false")
        query(server_url, "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
        try:
            until(
                lambda: try_to_send(client) == (451, b"4.3.0 the settings cannot be read now; try again later"),
                "deferred",
            )
        finally:
            query(server_url, f"alter database {name} allow_connections true")
        taken = len(rig.receiver.mails)
        until(lambda: try_to_send(client)[0] == 250, "mails go on")
        assert len(rig.receiver.mails) == taken + 1


def try_to_send(client: smtplib.SMTP) -> tuple[int, bytes]:
    """The first answer that is not 250, or the last one."""
    for step in (lambda: client.mail(SENDER), lambda: client.rcpt("erika@example.com"), lambda: client.data(HTML)):
        code, text = step()
        if code != 250:
            client.rset()
            break
    return code, text


def test_a_mail_that_went_out_while_the_database_went_away_is_counted_later(rig: RelayRig, server_url: str) -> None:
    name = rig.service.database_url.partition("?")[0].rpartition("/")[2]
    content = with_fields(HTML, "X-Mailtrail-Group: late")
    with rig.client("Anonymous") as client:
        assert send(client, content)[0] == 250
        rig.receiver.delay_seconds = 1.0
        client.mail(SENDER)
        client.rcpt("erika@example.com")
        client.docmd("DATA")
        client.send(content + b".\r\n")
        until(lambda: rig.receiver.waiting, "the next server has the mail")
        query(server_url, f"alter database {name} allow_connections false")
        query(server_url, "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
        try:
            assert client.getreply()[0] == 250
        finally:
            query(server_url, f"alter database {name} allow_connections true")
        rig.receiver.behave()
        until(lambda: try_to_send(client)[0] == 250, "mails go on")
    assert rig.counted("late") == [("anonymized", "", 2)]

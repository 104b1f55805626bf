"""An event's data: what each type takes, whom the mail is for, and where and how everything else is refused."""

import math
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import SettingsError
from app.tracking.event_data import EventData, EventDataRefused, read_event_data
from app.tracking.event_types import EventType, Group, Placeholder, Reference, parse_event_type, permission_of
from app.tracking.modes import Permission

DEFINITION = """\
<event xmlns="http://www.inxmail.com/xcom/eventtype">
  <eventtype><id>order_confirmation</id></eventtype>
  <customermapping>Customer.Id</customermapping>
  <customeremail>Customer.Email</customeremail>
  <customertracking>Customer.Tracking</customertracking>
  <phgroup>
    <id>Customer</id>
    <placeholder><id>Id</id><datatype-long/></placeholder>
    <placeholder><id>Email</id><datatype-string/></placeholder>
    <placeholder><id>Tracking</id><datatype-boolean truePattern="Ja" falsePattern="nein"/></placeholder>
    <placeholder><id>Vip</id><datatype-boolean truePattern="Ja" falsePattern="nein"/></placeholder>
    <placeholder><id>Age</id><datatype-integer/></placeholder>
    <placeholder><id>Balance</id><datatype-double/></placeholder>
    <placeholder><id>Birthday</id><datatype-datetime pattern="dd.MM.yyyy" timezone="Europe/Berlin"/></placeholder>
    <placeholder><id>Since</id><datatype-datetime/></placeholder>
  </phgroup>
  <phlist>
    <id>Items</id>
    <placeholder><id>Price</id><datatype-double decimalSeparator="," groupingSeparator="."/></placeholder>
    <placeholder><id>Gift</id><datatype-boolean/></placeholder>
  </phlist>
</event>
"""
EVENT_TYPE = parse_event_type(DEFINITION.encode())
BY_EMAIL = parse_event_type(DEFINITION.replace("<customermapping>Customer.Id</customermapping>", "").encode())


def read(customer: dict[str, Any], event_type: EventType = EVENT_TYPE, **groups: Any) -> EventData:
    return read_event_data(event_type, {"Customer": {"Id": 4711, **customer}, **groups})


def refusal(payload: object, event_type: EventType = EVENT_TYPE) -> EventDataRefused:
    with pytest.raises(EventDataRefused) as refused:
        read_event_data(event_type, payload)
    assert isinstance(refused.value, SettingsError)
    assert str(refused.value).startswith(f"{refused.value.field} ")
    return refused.value


# --- what is read ----------------------------------------------------------------------------------------------------


def test_whole_data() -> None:
    data = read(
        {"Email": "erika@example.com", "Tracking": "JA", "Birthday": "24.12.1980", "Balance": -1.5},
        Items=[{"Price": "1.299,50", "Gift": True}, {}],
    )
    assert ("4711", "erika@example.com", Permission.GRANTED) == (data.recipient, data.email, data.permission)
    birthday = datetime(1980, 12, 24, tzinfo=ZoneInfo("Europe/Berlin"))
    customer = {"Id": 4711, "Email": "erika@example.com", "Tracking": True, "Birthday": birthday, "Balance": -1.5}
    assert {"Customer": customer, "Items": ({"Price": 1299.5, "Gift": True}, {})} == data.values
    texts = {"Id": "4711", "Email": "erika@example.com", "Tracking": "JA", "Birthday": "24.12.1980", "Balance": "-1.5"}
    assert {f"Customer.{name}": text for name, text in texts.items()} == data.texts


@pytest.mark.parametrize("id", [4711, "4711", "004711", "+4711"])
def test_one_person_has_one_id_however_it_is_written(id: object) -> None:
    assert "4711" == read({"Id": id}).recipient


def test_the_address_is_the_recipient_where_nothing_else_is_named() -> None:
    data = read({"Email": "erika@example.com"}, BY_EMAIL)
    assert ("erika@example.com", "erika@example.com") == (data.recipient, data.email)


@pytest.mark.parametrize(
    ("name", "value", "typed", "text"),
    [
        ("Email", "", "", ""),
        ("Age", 2**31 - 1, 2**31 - 1, "2147483647"),
        ("Age", "-2147483648", -(2**31), "-2147483648"),
        ("Id", 2**63 - 1, 2**63 - 1, str(2**63 - 1)),
        ("Balance", 7, 7.0, "7"),
        ("Balance", 1e21, 1e21, "1" + "0" * 21),
        ("Balance", 1e-7, 1e-7, "0.0000001"),
        ("Balance", "1,234,567.5", 1234567.5, "1,234,567.5"),
        ("Balance", "1234567.5", 1234567.5, "1234567.5"),
        ("Balance", "-1e3", -1000.0, "-1e3"),
        ("Vip", True, True, "Ja"),
        ("Vip", False, False, "nein"),
        ("Vip", "NEIN", False, "NEIN"),
        ("Since", "2026-11-27T14:05:00Z", datetime(2026, 11, 27, 14, 5, tzinfo=UTC), "2026-11-27T14:05:00Z"),
        ("Since", "2026-11-27", datetime(2026, 11, 27, tzinfo=UTC), "2026-11-27"),
    ],
)
def test_values_of_each_type(name: str, value: object, typed: object, text: str) -> None:
    data = read({name: value})
    customer = data.values["Customer"]
    assert isinstance(customer, dict)
    assert (typed, type(typed), text) == (customer[name], type(customer[name]), data.texts[f"Customer.{name}"])


def test_null_is_as_left_out() -> None:
    assert read({}) == read({"Email": None, "Age": None, "Tracking": None}, Items=None)


# --- what is not -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("Email", 5, "is a number; send a text, in quotes"),
        ("Email", {"a": 1}, "is an object; send a text"),
        ("Age", 2**31, "is a number that is no integer; send a whole number from -2147483648 to 2147483647"),
        ("Age", -(2**31) - 1, "no integer"),
        ("Age", 1.0, "no integer"),
        ("Age", "1.0", "is a text that is no integer"),
        ("Age", " 1", "no integer"),
        ("Age", "", "no integer"),
        ("Age", "١", "no integer"),
        ("Age", "9" * 5_000, "no integer"),
        ("Age", True, "is a Boolean; send a whole number"),
        ("Id", 2**63, "no long"),
        ("Balance", "12,34", "is a text that is no double; send a number, or a text like 1,234.5"),
        ("Balance", "1,2345", "no double"),
        ("Balance", "1.234,5", "no double"),
        ("Balance", "", "no double"),
        ("Balance", "1e999", "no double"),
        ("Balance", "nan", "no double"),
        ("Balance", math.inf, "no double"),
        ("Balance", 10**400, "no double"),
        ("Balance", "1" * 401, "no double"),
        ("Balance", False, "is a Boolean"),
        ("Vip", "true", "is a text that is no boolean; send true or false, or the text 'Ja' or 'nein'"),
        ("Vip", 1, "is a number; send true or false"),
        ("Vip", [True], "is a list"),
        ("Birthday", "1980-12-24", "is a text that is no datetime; send a text like dd.MM.yyyy"),
        ("Birthday", "31.02.1980", "no datetime"),
        ("Since", "yesterday", "send a text like 2026-11-27T14:05:00+01:00"),
        ("Since", 1764252300, "is a number; send a text"),
    ],
)
def test_values_of_a_wrong_type(name: str, value: object, words: str) -> None:
    refused = refusal({"Customer": {"Id": 1, name: value}})
    assert f"payload.Customer.{name}" == refused.field
    assert words in str(refused)


@pytest.mark.parametrize(
    ("payload", "path", "words"),
    [
        (None, "payload", "is null; send an object"),
        ([], "payload", "is a list"),
        ({"Customer": []}, "payload.Customer", "is a list; send an object"),
        ({"Customer": {}, "Items": {}}, "payload.Items", "is an object; the definition says phlist"),
        (
            {"Items": [{}, {}, {"Price": []}]},
            "payload.Items[2].Price",
            "send a number, or a text like 1.234,5",
        ),
        ({"Items": [{}, None]}, "payload.Items[1]", "is null"),
        ({"Items": [{"Prize": 1}]}, "payload.Items[0].Prize", "did you mean Price?"),
        ({"Custommer": {}}, "payload.Custommer", "is no group of the event's definition"),
        ({"Customer": {"Trackin": True}}, "payload.Customer.Trackin", "did you mean Tracking?"),
        ({"Customer": {"x" * 300: 1}}, f"payload.Customer.{'x' * 80}…", "is no placeholder"),
        ({}, "payload.Customer.Id", "is missing; it says whom the mail is for"),
        ({"Customer": {}}, "payload.Customer.Id", "is missing"),
        ({"Customer": {"Id": None}}, "payload.Customer.Id", "is missing"),
    ],
)
def test_what_is_wrong_has_its_path(payload: object, path: str, words: str) -> None:
    refused = refusal(payload)
    assert path == refused.field
    assert words in str(refused)


@pytest.mark.parametrize("email", ["", " ", "a\nb", "x" * 400])
def test_what_cannot_be_sealed_is_no_recipient(email: str) -> None:
    refused = refusal({"Customer": {"Email": email}}, BY_EMAIL)
    assert "payload.Customer.Email" == refused.field
    assert "cannot be a recipient" in str(refused)


def test_a_definition_that_names_nobody() -> None:
    nobody = EventType("a", None, None, None, EVENT_TYPE.groups)
    assert "names neither customermapping nor customeremail" in str(refusal({"Customer": {"Id": 1}}, nobody))


def test_a_definition_from_elsewhere_with_a_pattern_that_is_none() -> None:
    strange = Placeholder("At", "datetime", pattern="MMM")
    event_type = EventType("a", Reference("A", "Id"), None, None, (Group("A", False, (strange,)),))
    assert "cannot be read as its definition says" in str(refusal({"A": {"At": "May"}}, event_type))


def test_no_message_repeats_a_value() -> None:
    secret = "erika.mustermann"
    for name in ("Age", "Balance", "Vip", "Birthday", "Since"):
        assert secret not in str(refusal({"Customer": {"Id": 1, name: secret}}))


# --- the permission --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "maybe", "true", 1, 0, [], {}, [True], "", 1.5])
def test_a_permission_that_cannot_be_read_refuses_nothing_and_grants_nothing(value: object) -> None:
    data = read({"Tracking": value})
    assert Permission.UNKNOWN is data.permission
    assert "Customer.Tracking" not in data.texts


@pytest.mark.parametrize(("value", "expected"), [("ja", "GRANTED"), (True, "GRANTED"), ("Nein", "DENIED")])
def test_a_permission_that_can(value: object, expected: str) -> None:
    assert Permission[expected] is read({"Tracking": value}).permission


def test_another_boolean_is_not_excused() -> None:
    assert "payload.Customer.Vip" == refusal({"Customer": {"Id": 1, "Tracking": "?", "Vip": "?"}}).field
    assert "payload.Items[0].Gift" == refusal({"Items": [{"Gift": "?"}]}).field


NAMES = st.sampled_from(
    ["Customer", "Items", "Id", "Email", "Tracking", "Vip", "Age", "Balance", "Birthday", "Price", "x"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["ja", "JA", "nein", "true", "1,234.5", "24.12.1980", "2026-11-27", "a@b.example"])
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=12
)
CUSTOMERS = st.dictionaries(NAMES, LEAVES, max_size=6)
PAYLOADS = JSON | st.fixed_dictionaries(
    {"Customer": CUSTOMERS | JSON}, optional={"Items": st.lists(CUSTOMERS | JSON, max_size=3)}
)


@given(PAYLOADS, st.sampled_from([EVENT_TYPE, BY_EMAIL]))
def test_data_are_read_or_refused_and_nobody_is_tracked_by_accident(payload: object, event_type: EventType) -> None:
    try:
        data = read_event_data(event_type, payload)
    except EventDataRefused as error:
        path = error.field or ""
    else:
        path = "payload"
        assert_is_what_was_sent(data, payload, event_type)
    assert path.startswith("payload")


def assert_is_what_was_sent(data: EventData, payload: object, event_type: EventType) -> None:
    assert isinstance(payload, dict)
    value = (payload.get("Customer") or {}).get("Tracking")
    assert (value is True or (isinstance(value, str) and value.lower() == "ja")) is (
        data.permission is Permission.GRANTED
    )
    assert permission_of(event_type, payload) is data.permission
    assert data.recipient == data.texts["Customer.Id" if event_type is EVENT_TYPE else "Customer.Email"]

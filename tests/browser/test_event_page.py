"""An event's page: permission tracking, protected mode, running dispatches, definitions, names and the archive."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator

from app.store import events
from tests.browser.pages import WITH_PERMISSION, WITHOUT_PERMISSION, Page, Pages, event_path, expect, space_path

PERMISSION = "Tracking depending on tracking permission"


def _tracking(page: Page) -> Locator:
    return page.get_by_role("region", name="Tracking", exact=True)


def _definition(page: Page) -> Locator:
    return page.get_by_role("region", name="Definition", exact=True)


# --- tracking --------------------------------------------------------------------------------------------------------


def test_permission_tracking_of_an_event_that_is_not_active(pages: Pages) -> None:
    space = pages.make_space("Plain")
    event = pages.make_event(space, "Newsletter")
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        expect(_tracking(page)).to_contain_text("Now: Anonymized, by the space's default")
        page.get_by_label(PERMISSION).check()
        page.get_by_role("button", name="Save tracking").click()
        expect(page.get_by_role("status")).to_have_text("The event's tracking is saved.")
        expect(_tracking(page)).to_contain_text("By permission: person-based if granted, else anonymized")
        page.reload()  # the form is not sent again
        expect(page.get_by_label(PERMISSION)).to_be_checked()
    assert pages.event(space, event)["by_permission"]
    assert 2 == pages.event(space, event)["revision"]


def test_without_a_permission_field_the_warning_must_be_read(pages: Pages) -> None:
    space = pages.make_space("Blind")
    event = pages.make_event(space, "Parcel", definition=WITHOUT_PERMISSION)
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        box = _tracking(page).get_by_role("checkbox", name="I have read this; everyone is to be anonymized.")
        expect(box).to_be_hidden()
        page.get_by_label(PERMISSION).check()
        expect(box).to_be_visible()
        page.get_by_role("button", name="Save tracking").click()
        expect(page.get_by_role("alert")).to_contain_text("Nothing was saved yet.")
        expect(page.get_by_label(PERMISSION)).to_be_checked()
        assert not pages.event(space, event)["by_permission"]
        box.check()
        page.get_by_role("button", name="Save tracking").click()
        expect(page.get_by_role("status")).to_have_text("The event's tracking is saved.")
        expect(_tracking(page)).to_contain_text("Nobody's permission is known")
    assert pages.event(space, event)["by_permission"]


# --- protected mode --------------------------------------------------------------------------------------------------


def test_active_event_is_changed_only_after_leaving_protected_mode(pages: Pages) -> None:
    space = pages.make_space("Active")
    event = pages.make_event(space, "Invoice")
    pages.activate(space, event)
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        expect(_tracking(page)).to_contain_text("This event is in protected mode")
        expect(page.get_by_label(PERMISSION)).to_be_disabled()
        expect(page.get_by_label("XML file")).to_be_disabled()
        expect(page.get_by_label("Or paste the XML")).to_be_disabled()
        expect(page.get_by_role("button", name="Save tracking")).to_have_count(0)

        page.get_by_role("button", name="Leave protected mode").click()
        expect(page.get_by_role("status")).to_have_text("Protected mode is left. You can change the event now.")
        expect(_tracking(page)).to_contain_text(re.compile(r"can be changed until \d+ \w+ \d{4}, \d\d:\d\d:\d\d UTC"))
        page.get_by_role("button", name="Return to protected mode").click()
        expect(page.get_by_label(PERMISSION)).to_be_disabled()

        page.get_by_role("button", name="Leave protected mode").click()
        page.get_by_label(PERMISSION).check()
        page.get_by_role("button", name="Save tracking").click()
        expect(page.get_by_role("status")).to_have_text("The event's tracking is saved.")
        expect(page.get_by_label(PERMISSION)).to_be_disabled()
        expect(page.get_by_label(PERMISSION)).to_be_checked()
    actions = pages.query("select action, who from mailtrail.audit where object = 'Invoice' and space_id = $1", space)
    done = [row["action"] for row in actions if row["who"] == "user:editor"]
    left, entered, changed = "protected mode left", "protected mode entered", "event changed"
    assert [left, entered, left, changed, entered] == done


def test_save_after_the_protection_is_back_is_refused_and_loses_nothing(pages: Pages) -> None:
    space = pages.make_space("Late")
    event = pages.make_event(space, "Invoice")
    pages.activate(space, event)
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        page.get_by_role("button", name="Leave protected mode").click()
        page.get_by_label(PERMISSION).check()
        # the quarter of an hour is over
        pages.query(
            "update mailtrail.events set unprotected_until = now() - interval '1 second' where id = $1 returning id",
            event,
        )
        revision = str(pages.event(space, event)["revision"])
        page.locator("#tracking input[name=revision]").evaluate("(field, value) => field.value = value", revision)
        page.get_by_role("button", name="Save tracking").click()
        expect(page.get_by_role("alert")).to_contain_text("The event is in protected mode; leave protected mode first")
        expect(page.get_by_label(PERMISSION)).to_be_checked()
        expect(page.get_by_role("button", name="Leave protected mode")).to_be_visible()
    assert not pages.event(space, event)["by_permission"]


def test_running_dispatch_is_shown_and_asked_about_twice(pages: Pages) -> None:
    space = pages.make_space("Running")
    event = pages.make_event(space, "Newsletter")
    dispatch = pages.activate(space, event, is_running=True)
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        expect(_tracking(page)).to_contain_text("A dispatch is running")
        expect(_tracking(page)).to_contain_text(re.compile("started by the program with the key “shop” on .* UTC"))
        page.get_by_role("button", name="Leave protected mode").click()
        expect(page.get_by_role("alert")).to_contain_text("Nothing was saved yet.")
        assert pages.event(space, event)["unprotected_until"] is None
        page.get_by_label("I know that a dispatch is running").check()
        page.get_by_role("button", name="Leave protected mode").click()

        page.get_by_label(PERMISSION).check()
        page.get_by_role("button", name="Save tracking").click()
        box = page.get_by_label("I have read this; change it while the dispatch is running.")
        expect(box).to_have_accessible_description(re.compile("Tick this to go on"))
        expect(page.get_by_label(PERMISSION)).to_be_checked()
        assert not pages.event(space, event)["by_permission"]
        box.check()
        page.get_by_role("button", name="Save tracking").click()
        expect(page.get_by_role("status")).to_have_text("The event's tracking is saved.")
        assert pages.event(space, event)["by_permission"]

        pages.in_database(lambda each: events.end_dispatch(each, space, dispatch))
        page.goto(event_path(space, event))
        expect(_tracking(page)).not_to_contain_text("A dispatch is running")
        expect(page.get_by_role("region", name="Latest dispatches")).to_contain_text(re.compile("Ended on .* UTC"))
    (entry,) = pages.query("select new from mailtrail.audit where action = 'event changed' and space_id = $1", space)
    assert '"dispatch_running"' in entry["new"]


def test_second_of_two_editors_is_told(pages: Pages) -> None:
    space = pages.make_space("Two")
    event = pages.make_event(space, "Invoice")
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        pages.in_database(lambda each: events.change_event(each, "user:fast", space, event, name="Bill"))
        page.get_by_label(PERMISSION).check()
        page.get_by_role("button", name="Save tracking").click()
        told = _tracking(page).get_by_role("alert")
        expect(told).to_contain_text("Somebody else has changed this since you opened it.")
        expect(told.get_by_role("definition").nth(0)).to_have_text("By the space's default")
        expect(told.get_by_role("definition").nth(1)).to_have_text("By permission")
        expect(page.get_by_role("heading", level=1)).to_have_text("Bill")
        assert not pages.event(space, event)["by_permission"]
        page.get_by_role("button", name="Save tracking").click()
        expect(page.get_by_role("status")).to_have_text("The event's tracking is saved.")


def test_in_german(pages: Pages) -> None:
    space = pages.make_space("Deutsch")
    event = pages.make_event(space, "Rechnung")
    pages.activate(space, event, is_running=True)
    with pages.browsing("editor", language="de") as page:
        page.goto(event_path(space, event))
        expect(page.get_by_label("Tracking abhängig von der Tracking-Erlaubnis")).to_be_disabled()
        page.get_by_label("Ich weiß, dass ein Versand läuft").check()
        page.get_by_role("button", name="Schutzmodus verlassen").click()
        expect(page.get_by_text(re.compile(r"bis \d\d\.\d\d\.\d{4}, \d\d:\d\d:\d\d UTC"))).to_be_visible()
        page.get_by_label("Tracking abhängig von der Tracking-Erlaubnis").check()
        page.get_by_label("Ich habe das gelesen; ändern, während der Versand läuft.").check()
        page.get_by_role("button", name="Tracking speichern").click()
        expect(page.get_by_role("status")).to_have_text("Das Tracking des Events ist gespeichert.")
        expect(page.get_by_text("Nach Erlaubnis: personenbezogen, wenn sie erteilt ist")).to_be_visible()
    assert pages.event(space, event)["by_permission"]


# --- definitions -----------------------------------------------------------------------------------------------------


def test_uploading_a_definition(pages: Pages, tmp_path: Path) -> None:
    space = pages.make_space("Upload")
    event = pages.make_event(space, "Order")
    file = tmp_path / "order.xml"
    file.write_bytes(WITH_PERMISSION)
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        page.get_by_label("XML file").set_input_files(file)
        page.get_by_role("button", name="Save definition").click()
        expect(page.get_by_role("status")).to_have_text("The definition is saved.")
        expect(_definition(page)).to_contain_text("order_confirmation")
        expect(_definition(page)).to_contain_text("Customer.Tracking")
        page.get_by_text("Show the current XML").click()
        assert WITH_PERMISSION.decode().strip() == page.get_by_label("Current XML").inner_text().strip()

        file.write_bytes(WITH_PERMISSION.replace(b"order_confirmation", b"another_id"))
        page.get_by_label("XML file").set_input_files(file)
        page.get_by_role("button", name="Save definition").click()
        expect(page.get_by_role("alert")).to_contain_text(
            "The event's id is 'order_confirmation' and never changes, but this definition says 'another_id'"
        )
        expect(page.get_by_label("Or paste the XML")).to_have_value(re.compile("another_id"))
    assert WITH_PERMISSION == bytes(pages.event(space, event)["definition"])


@pytest.mark.parametrize(
    ("xml", "english", "german"),
    [
        (
            "<event>\n<x/>",
            "Line 2, column 5: the XML is empty or ends too early; close every element, <event> last.",
            "Zeile 2, Spalte 5: das XML ist leer oder endet zu früh; schließen Sie jedes Element, <event> zuletzt.",
        ),
        (
            WITH_PERMISSION.decode().replace("Customer.Tracking", "Customer.Trackin"),
            "Line 5, column 3: customertracking names Customer.Trackin, which does not exist; it must be a Boolean"
            " placeholder (<datatype-boolean/>) in a phgroup; did you mean Customer.Tracking?",
            "Zeile 5, Spalte 3: customertracking nennt Customer.Trackin, das es nicht gibt; nötig ist ein Boolescher"
            " Platzhalter (<datatype-boolean/>) in einer phgroup; meinten Sie Customer.Tracking?",
        ),
    ],
)
def test_wrong_definition_says_where(pages: Pages, xml: str, english: str, german: str) -> None:
    space = pages.make_space(f"Wrong {hash(xml)}")
    event = pages.make_event(space, "Order")
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        page.get_by_label("Or paste the XML").fill(xml)
        page.get_by_role("button", name="Save definition").click()
        expect(page.get_by_role("alert")).to_contain_text(english)
        expect(page.get_by_label("Or paste the XML")).to_have_value(xml)
        expect(page.get_by_label("Or paste the XML")).to_have_accessible_description(f"Error: {english}")
    with pages.browsing("editor", language="de") as page:
        page.goto(event_path(space, event))
        page.get_by_label("Oder fügen Sie das XML ein").fill(xml)
        page.get_by_role("button", name="Definition speichern").click()
        expect(page.get_by_role("alert")).to_contain_text(german)


def test_definition_that_loses_the_permission_is_warned_of(pages: Pages) -> None:
    space = pages.make_space("Loses")
    event = pages.make_event(space, "Parcel", by_permission=True, definition=WITH_PERMISSION)
    blind = WITHOUT_PERMISSION.replace(b"parcel_notice", b"order_confirmation").decode()
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        _definition(page).get_by_label("Or paste the XML").fill(blind)
        page.get_by_role("button", name="Save definition").click()
        expect(page.get_by_role("alert")).to_contain_text("Nothing was saved yet.")
        assert "Customer.Tracking" == pages.event(space, event)["permission_field"]
        _definition(page).get_by_role("checkbox", name="I have read this; everyone is to be anonymized.").check()
        page.get_by_role("button", name="Save definition").click()
        expect(page.get_by_role("status")).to_have_text("The definition is saved.")
    assert pages.event(space, event)["permission_field"] is None


def test_pasted_text_keeps_its_letters_whatever_its_declaration_says(pages: Pages) -> None:
    space = pages.make_space("Umlaute")
    event = pages.make_event(space, "Order")
    xml = WITH_PERMISSION.decode().replace("UTF-8", "ISO-8859-1")
    xml = xml.replace("<id>order_confirmation</id>", '<id>o</id><translation language="de">Bestätigung ✓</translation>')
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        page.get_by_label("Or paste the XML").fill(xml)
        page.get_by_role("button", name="Save definition").click()
        expect(page.get_by_role("status")).to_have_text("The definition is saved.")
        page.get_by_text("Show the current XML").click()
        expect(page.get_by_label("Current XML")).to_contain_text("Bestätigung ✓")
    assert "Bestätigung ✓".encode() in bytes(pages.event(space, event)["definition"])


def test_nothing_or_too_much_is_no_definition(pages: Pages, tmp_path: Path) -> None:
    space = pages.make_space("Too much")
    event = pages.make_event(space, "Order")
    file = tmp_path / "huge.xml"
    file.write_bytes(b"<event>" + b" " * 300_000)
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        page.get_by_role("button", name="Save definition").click()
        expect(page.get_by_role("alert")).to_contain_text("Choose an XML file or paste the XML.")
        page.get_by_label("XML file").set_input_files(file)
        page.get_by_role("button", name="Save definition").click()
        expect(page.get_by_role("alert")).to_contain_text("at most 262144 are read")
        file.write_bytes(b"x" * 2_000_000)
        page.get_by_label("XML file").set_input_files(file)
        page.get_by_role("button", name="Save definition").click()
        expect(page.get_by_role("main")).to_contain_text("This form is too large")
    assert pages.event(space, event)["definition"] is None


# --- new, renamed, archived ------------------------------------------------------------------------------------------


def test_new_event_with_a_definition(pages: Pages, tmp_path: Path) -> None:
    space = pages.make_space("New")
    file = tmp_path / "parcel.xml"
    file.write_bytes(WITHOUT_PERMISSION)
    with pages.browsing("editor") as page:
        page.goto(f"{space_path(space)}/tracking")
        page.get_by_role("link", name="New event").click()
        page.get_by_role("button", name="Make the event").click()
        name = page.get_by_label("Name of the event")
        expect(name).to_have_accessible_description(re.compile("Enter a name with 1 to 200 characters"))
        name.fill("Parcel")
        page.get_by_label(PERMISSION).check()
        page.get_by_label("XML file").set_input_files(file)
        page.get_by_role("button", name="Make the event").click()
        expect(name).to_have_value("Parcel")
        expect(page.get_by_label(PERMISSION)).to_be_checked()
        expect(page.get_by_label("Or paste the XML")).to_have_value(re.compile("parcel_notice"))
        page.get_by_label("I have read this; everyone is to be anonymized.").check()
        page.get_by_role("button", name="Make the event").click()
        expect(page.get_by_role("status")).to_have_text("The event is made.")
        expect(page.get_by_role("heading", level=1)).to_have_text("Parcel")

        page.goto(f"{space_path(space)}/events/new")
        name.fill("Parcel")
        page.get_by_role("button", name="Make the event").click()
        expect(page.get_by_role("alert")).to_contain_text("The space has an event of this name already")
    (row,) = pages.query("select * from mailtrail.events where space_id = $1", space)
    assert ("Parcel", True, "parcel_notice") == (row["name"], row["by_permission"], row["type_id"])


def test_renaming_and_archiving(pages: Pages) -> None:
    space = pages.make_space("Archive")
    event = pages.make_event(space, "Old name")
    pages.activate(space, event)  # neither needs protected mode to be left
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        page.get_by_label("Name of the event").fill("New <name>")
        page.get_by_role("button", name="Save name").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("New <name>")
        page.get_by_role("button", name="Archive").click()
        expect(page.get_by_role("status")).to_contain_text("The event is archived.")
        assert pages.event(space, event)["archived_at"] is not None
        page.get_by_role("button", name="Restore from the archive").click()
        expect(page.get_by_role("status")).to_have_text("The event is in the lists again.")
    assert pages.event(space, event)["archived_at"] is None


def test_keyboard_alone_changes_the_tracking(pages: Pages) -> None:
    space = pages.make_space("Keys")
    event = pages.make_event(space, "Invoice")
    with pages.browsing("editor") as page:
        page.goto(event_path(space, event))
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_label(PERMISSION)).to_be_focused()
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Save tracking")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("The event's tracking is saved.")
    assert pages.event(space, event)["by_permission"]

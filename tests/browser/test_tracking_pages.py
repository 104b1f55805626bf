"""The list of spaces and a space's tracking page, as marketers walk through them."""

import re
import time

import httpx2
import pytest

from app.store import events
from app.store import settings as store
from app.store.pool import Connection
from tests.browser.pages import WITHOUT_PERMISSION, Page, Pages, event_path, expect, follow, space_path


def _tracking(page: Page, space: int) -> None:
    page.goto(f"{space_path(space)}/tracking")


def _default(page: Page):
    return page.get_by_role("region", name="Default setting")


def _relay(page: Page):
    return page.get_by_role("region", name="Mail relay")


def _row(page: Page, name: str):
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name, exact=True))


# --- the default -----------------------------------------------------------------------------------------------------


def test_default_needs_the_consent_and_says_how_many_events_follow(pages: Pages) -> None:
    space = pages.make_space("Consent")
    for name in ("Invoice", "Parcel", "Newsletter"):
        pages.make_event(space, name, by_permission=name == "Newsletter")
    with pages.browsing("editor") as page:
        _tracking(page, space)
        expect(_default(page)).to_contain_text("2 events follow it and change with it at once")
        expect(_default(page).get_by_role("checkbox")).to_be_hidden()
        _default(page).get_by_label("Person-based").check()
        expect(_default(page).get_by_role("checkbox")).to_be_visible()

        page.get_by_role("button", name="Save as default").click()
        expect(page.get_by_role("alert")).to_contain_text("Nothing was saved yet.")
        expect(_default(page).get_by_label("Person-based")).to_be_checked()
        box = _default(page).get_by_role("checkbox")
        expect(box).to_have_accessible_description(re.compile("Tick this to go on"))
        assert "anonymized" == pages.space(space)["default_mode"]

        box.check()
        page.get_by_role("button", name="Save as default").click()
        expect(page).to_have_url(re.compile(r"\?saved=default$"))
        expect(page.get_by_role("status")).to_have_text("The default is saved: person-based. 2 events follow it.")
        expect(_row(page, "Invoice")).to_contain_text("Person-based, by the space's default")
        expect(_row(page, "Newsletter")).to_contain_text("By permission: person-based if granted, else anonymized")
        expect(_row(page, "Newsletter")).not_to_contain_text("No permission field")  # it has no definition at all
    assert "person_based" == pages.space(space)["default_mode"]
    (entry,) = pages.query("select * from mailtrail.audit where action = 'space changed' and space_id = $1", space)
    assert "user:editor" == entry["who"]


def test_going_back_to_anonymized_needs_no_consent(pages: Pages) -> None:
    space = pages.make_space("Back", default="person_based")
    pages.make_event(space, "Invoice")
    with pages.browsing("editor") as page:
        _tracking(page, space)
        expect(_default(page).get_by_label("Person-based")).to_be_checked()
        _default(page).get_by_label("Anonymized").check()
        page.get_by_role("button", name="Save as default").click()
        expect(page.get_by_role("status")).to_have_text("The default is saved: anonymized. 1 event follows it.")
        expect(_row(page, "Invoice")).to_contain_text("Anonymized, by the space's default")


def test_second_of_two_editors_is_told(pages: Pages) -> None:
    space = pages.make_space("Two editors", default="person_based")
    with pages.browsing("editor") as slow:
        _tracking(slow, space)
        pages.in_database(lambda each: store.change_space(each, "user:fast", space, url="https://fast.example.com"))
        _default(slow).get_by_label("Anonymized").check()
        slow.get_by_role("button", name="Save as default").click()
        told = _default(slow).get_by_role("alert")
        expect(told).to_contain_text("Somebody else has changed this since you opened it.")
        expect(told.get_by_role("definition").nth(0)).to_have_text("Person-based")
        expect(told.get_by_role("definition").nth(1)).to_have_text("Anonymized")
        expect(_default(slow).get_by_label("Anonymized")).to_be_checked()
        assert "person_based" == pages.space(space)["default_mode"]
        slow.get_by_role("button", name="Save as default").click()
        expect(slow.get_by_role("status")).to_contain_text("The default is saved: anonymized.")
    assert "https://fast.example.com" == pages.space(space)["tracking_url"]


def test_in_german(pages: Pages) -> None:
    space = pages.make_space("Deutsch")
    pages.make_event(space, "Rechnung")
    with pages.browsing("admin", language="de") as page:
        _tracking(page, space)
        default = page.get_by_role("region", name="Standardeinstellung")
        expect(default).to_contain_text("1 Event folgt ihr und ändert sich sofort mit ihr.")
        default.get_by_label("Personenbezogen").check()
        page.get_by_role("button", name="Als Standard speichern").click()
        expect(page.get_by_role("alert")).to_contain_text("Es wurde noch nichts gespeichert.")
        default.get_by_label("Ich habe das gelesen, und die nötigen Einwilligungen liegen uns vor.").check()
        page.get_by_role("button", name="Als Standard speichern").click()
        expect(page.get_by_role("status")).to_have_text(
            "Der Standard ist gespeichert: personenbezogen. 1 Event folgt ihm."
        )
        expect(_row(page, "Rechnung")).to_contain_text("Personenbezogen, nach dem Standard des Bereichs")


# --- relay, address, name, deletion ----------------------------------------------------------------------------------


def test_relay_is_for_administrators_and_never_by_permission(pages: Pages) -> None:
    space = pages.make_space("Relay")
    with pages.browsing("editor") as page:
        _tracking(page, space)
        for radio in _relay(page).get_by_role("radio").all():
            expect(radio).to_be_disabled()
        expect(_relay(page)).to_contain_text("Only administrators change the relay")
        expect(_relay(page).get_by_role("button")).to_have_count(0)
        assert 403 == _post(page, f"{space_path(space)}/tracking/relay", relay_mode="anonymized", revision="1")
    with pages.browsing("admin") as page:
        _tracking(page, space)
        impossible = _relay(page).get_by_role("radio", name="By permission")
        expect(impossible).to_be_disabled()
        expect(impossible).to_have_accessible_description(re.compile("a relay mail has no event XML"))
        _relay(page).get_by_label("Personalized").check()
        page.get_by_role("button", name="Save relay setting").click()
        expect(page.get_by_role("alert")).to_contain_text("Nothing was saved yet.")
        assert "off" == pages.space(space)["relay_mode"]
        _relay(page).get_by_role("checkbox").check()
        page.get_by_role("button", name="Save relay setting").click()
        expect(page.get_by_role("status")).to_contain_text("The mail relay's setting is saved.")
        assert "person_based" == pages.space(space)["relay_mode"]
        _relay(page).get_by_label("Off").check()
        page.get_by_role("button", name="Save relay setting").click()
        expect(_relay(page).get_by_label("Off")).to_be_checked()
        answer = _post(page, f"{space_path(space)}/tracking/relay", relay_mode="permission", revision="3")
        assert 422 == answer
    assert "off" == pages.space(space)["relay_mode"]


def test_address_of_links(pages: Pages) -> None:
    space = pages.make_space("Address")
    with pages.browsing("editor") as page:
        _tracking(page, space)
        address = page.get_by_label("Address that links start with")
        address.fill("t.example.com/?q=1")
        page.get_by_role("button", name="Save address").click()
        expect(address).to_have_value("t.example.com/?q=1")
        expect(address).to_have_accessible_description(re.compile("Enter a complete address"))
        page.get_by_role("alert").get_by_role("link").click()
        expect(page).to_have_url(re.compile("#links-tracking_url$"))
        address.fill("https://T.example.com/")
        page.get_by_role("button", name="Save address").click()
        expect(address).to_have_value("https://t.example.com")
        address.fill("")
        page.get_by_role("button", name="Save address").click()
        expect(page.get_by_role("status")).to_contain_text("The address of tracked links is saved.")
    assert pages.space(space)["tracking_url"] is None


def test_renaming_and_deleting_a_space(pages: Pages) -> None:
    pages.make_space("Taken")
    space = pages.make_space("Short-lived")
    with pages.browsing("admin") as page:
        _tracking(page, space)
        name = page.get_by_role("region", name="Space", exact=True).get_by_label("Name")
        name.fill("Taken")
        page.get_by_role("button", name="Save name").click()
        expect(page.get_by_role("alert")).to_contain_text("There is a space of this name already")
        expect(name).to_have_value("Taken")
        name.fill("<i>Late</i>")
        page.get_by_role("button", name="Save name").click()
        expect(page.get_by_role("status")).to_have_text("The name is saved.")

        page.get_by_role("link", name="Delete this space").click()
        page.get_by_label("Type the space's name").fill("late")
        page.get_by_role("button", name="Delete for good").click()
        expect(page.get_by_role("alert")).to_contain_text("This is not the name of the space")
        page.get_by_label("Type the space's name").fill("<i>Late</i>")
        page.get_by_role("button", name="Delete for good").click()
        expect(page.get_by_role("status")).to_contain_text("The space is deleted.")
        gone = page.goto(f"{space_path(space)}/tracking")
        assert gone is not None
        assert 404 == gone.status
    for name in ("editor", "viewer"):
        with pages.browsing(name) as page:
            other = pages.make_space(f"Not for the {name}")
            _tracking(page, other)
            expect(page.get_by_role("link", name="Delete this space")).to_have_count(0)
            refused = page.goto(f"{space_path(other)}/delete")
            assert refused is not None
            assert 403 == refused.status
            assert 403 == _post(page, f"{space_path(other)}/delete", name=f"Not for the {name}", revision="1")


# --- the lists -------------------------------------------------------------------------------------------------------


def test_new_space(pages: Pages) -> None:
    with pages.browsing("admin") as page:
        page.goto("/")
        page.get_by_role("link", name="New space").click()
        page.get_by_label("Name").fill("   ")
        page.get_by_role("button", name="Make the space").click()
        expect(page.get_by_label("Name")).to_have_accessible_description(re.compile("Enter a name with 1 to 200"))
        page.get_by_label("Name").fill("Fresh")
        page.get_by_label("Person-based").check()
        page.get_by_role("button", name="Make the space").click()
        expect(page.get_by_label("Name")).to_have_value("Fresh")
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Make the space").click()
        expect(page.get_by_role("status")).to_contain_text("The space is made.")
        expect(_default(page).get_by_label("Person-based")).to_be_checked()
    with pages.browsing("editor") as page:
        page.goto("/")
        expect(page.get_by_role("link", name="New space")).to_have_count(0)
        assert 403 == _post(page, "/spaces/new", name="Mine", default_mode="anonymized")
    assert [] == pages.query("select from mailtrail.spaces where name = 'Mine'")


def test_names_are_text_and_break_nothing(pages: Pages) -> None:
    evil, long = "<script>document.title='evil'</script><b>bold</b>", "W" * 200
    space = pages.make_space(evil)
    pages.make_space(long)
    pages.make_event(space, evil)
    event = pages.make_event(space, long, definition=WITHOUT_PERMISSION)
    for width in (320, 1280):
        with pages.browsing("admin", width=width, javascript=True) as page:
            for path in ("/", f"{space_path(space)}/tracking", event_path(space, event), f"{space_path(space)}/delete"):
                page.goto(path)
                expect(page.get_by_text(evil).first).to_be_visible()
                assert "evil" != page.title()
                assert 0 == page.locator("main b").count()
                assert width >= page.evaluate("document.documentElement.scrollWidth"), path


def test_ten_thousand_events_and_spaces_stay_usable(pages: Pages) -> None:
    space = pages.make_space("0 many")

    async def fill(connection: Connection) -> None:
        await connection.execute(
            "insert into mailtrail.events (space_id, id, name)"
            " select $1, n, 'Event ' || lpad(n::text, 5, '0') from generate_series(1, 10000) as n",
            space,
        )
        await connection.execute(
            "insert into mailtrail.spaces (id, name) select 4000000000 + n, 'Zone ' || lpad(n::text, 5, '0')"
            " from generate_series(1, 10000) as n"
        )

    pages.in_database(fill)
    with pages.browsing("admin") as page:
        began = time.monotonic()
        _tracking(page, space)
        expect(_default(page)).to_contain_text("10,000 events follow it")
        assert 20 > time.monotonic() - began
        seen = []
        for _ in range(3):
            seen += page.get_by_role("rowheader").all_inner_texts()
            follow(page.get_by_role("link", name="Next page"))
            expect(page.get_by_role("link", name="First page")).to_be_visible()
        assert [f"Event {number:05}" for number in range(1, 151)] == seen
        page.get_by_role("searchbox").fill("vent 0999")
        page.get_by_role("button", name="Search").click()
        expect(page.get_by_role("rowheader")).to_have_count(10)
        expect(page.get_by_role("link", name="Next page")).to_have_count(0)
        page.get_by_role("searchbox").fill("nowhere & never")
        page.get_by_role("button", name="Search").click()
        expect(page.get_by_text("No event has this in its name.")).to_be_visible()

        page.goto("/")
        page.get_by_role("searchbox").fill("ZONE 0")
        page.get_by_role("button", name="Search").click()
        follow(page.get_by_role("link", name="Next page"))
        expect(page.get_by_role("rowheader").first).to_have_text("Zone 00051")
        expect(page.get_by_role("searchbox")).to_have_value("ZONE 0")
        page.get_by_role("link", name="First page").click()
        page.get_by_role("link", name="Zone 00001").click()
        expect(page.get_by_text("This space has no event yet.")).to_be_visible()


@pytest.mark.parametrize("query", ["q=%00", "q=%ff%fe", "after=zzzz", "after=ffffffff", "after=%00", "q=%25%28x%29s"])
def test_strange_searches_are_searches(pages: Pages, query: str) -> None:
    space = pages.query("select id from mailtrail.spaces where deleted_at is null limit 1")[0]["id"]
    with pages.browsing("viewer") as page:
        for path in ("/", f"{space_path(space)}/tracking"):
            answer = page.goto(f"{path}?{query}")
            assert answer is not None
            assert 200 == answer.status


def test_switching_an_event_from_the_list(pages: Pages) -> None:
    space = pages.make_space("Switch", default="person_based")
    event = pages.make_event(space, "Invoice")
    blind = pages.make_event(space, "Parcel", definition=WITHOUT_PERMISSION)
    pages.activate(space, pages.make_event(space, "Sent"))
    with pages.browsing("editor") as page:
        _tracking(page, space)
        _row(page, "Invoice").get_by_role("button", name="Switch on").click()
        expect(page.get_by_role("status")).to_have_text("The event's tracking is saved.")
        expect(_row(page, "Invoice")).to_contain_text("By permission: person-based if granted, else anonymized")
        assert pages.event(space, event)["by_permission"]

        _row(page, "Invoice").get_by_role("button", name="Switch off").click()  # leads to person-based, for everyone
        expect(page.get_by_role("heading", level=1)).to_have_text("Invoice")
        page.get_by_label("I have read this, and we have the consent").check()
        page.get_by_role("button", name="Save tracking").click()
        expect(page.get_by_role("status")).to_have_text("The event's tracking is saved.")
        assert not pages.event(space, event)["by_permission"]

        _tracking(page, space)
        _row(page, "Parcel").get_by_role("button", name="Switch on").click()
        expect(page.get_by_role("region", name="Tracking", exact=True)).to_contain_text("Everyone will be anonymized")
        assert not pages.event(space, blind)["by_permission"]
        page.get_by_label("I have read this; everyone is to be anonymized.").check()
        page.get_by_role("button", name="Save tracking").click()
        expect(page.get_by_role("status")).to_have_text("The event's tracking is saved.")
        _tracking(page, space)
        expect(_row(page, "Parcel")).to_contain_text("No permission field: everyone is anonymized")

        _tracking(page, space)
        expect(_row(page, "Sent")).to_contain_text("Protected")
        expect(_row(page, "Sent").get_by_role("button")).to_have_count(0)
        page.get_by_role("link", name="Edit Sent").click()
        expect(page.get_by_role("button", name="Leave protected mode")).to_be_visible()


def test_viewers_see_everything_and_change_nothing(pages: Pages) -> None:
    space = pages.make_space("Looked at")
    event = pages.make_event(space, "Invoice")
    with pages.browsing("viewer") as page:
        _tracking(page, space)
        expect(_row(page, "Invoice")).to_contain_text("Anonymized, by the space's default")
        expect(_default(page).get_by_label("Anonymized")).to_be_disabled()
        for button in page.get_by_role("main").get_by_role("button").all():
            expect(button).to_have_text("Search")
        page.get_by_role("link", name="Look at Invoice").click()
        expect(page.get_by_label("Tracking depending on tracking permission")).to_be_disabled()
        expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)
        for form in ("default", "links", "name", "relay"):
            assert 403 == _post(page, f"{space_path(space)}/tracking/{form}", revision="1")
        for form in ("tracking", "definition", "name", "archive", "protection"):
            assert 403 == _post(page, f"{event_path(space, event)}/{form}", revision="1")
        assert 403 == _post(page, f"{space_path(space)}/events/new", name="Mine")


def test_what_only_forms_reach_leads_to_its_page(pages: Pages) -> None:
    space = pages.make_space("Forms only")
    event = pages.make_event(space, "Invoice")
    with pages.browsing("editor") as page:
        for path, goal in (
            (f"{space_path(space)}/tracking/default", f"{space_path(space)}/tracking"),
            (space_path(space), f"{space_path(space)}/tracking"),
            (f"{event_path(space, event)}/protection", event_path(space, event)),
            ("/sign-out", "/"),
            ("/language", "/"),
        ):
            page.goto(path)
            expect(page).to_have_url(f"{pages.base}{goal}")
        for path in ("/spaces/xyz/tracking", "/spaces/00000000/tracking", f"{space_path(space)}/events/1", "/nothing"):
            answer = page.goto(path)
            assert answer is not None
            assert 404 == answer.status
            expect(page.get_by_role("heading", name="This page is not there")).to_be_visible()


def test_archived_events_are_shown_when_asked_for(pages: Pages) -> None:
    space = pages.make_space("Archive")
    old = pages.make_event(space, "Old")
    pages.make_event(space, "Current")
    pages.in_database(lambda each: events.change_event(each, "test", space, old, archived=True))
    with pages.browsing("viewer") as page:
        _tracking(page, space)
        expect(page.get_by_role("rowheader")).to_have_text(["Current"])
        page.get_by_label("Show archived ones").check()
        page.get_by_role("button", name="Search").click()
        expect(page.get_by_role("rowheader")).to_have_text(["Current", "Old"])
        expect(_row(page, "Old")).to_contain_text("Archived")


def _post(page: Page, path: str, **form: str) -> int:
    """What the server says to a form that the page does not offer, sent with the visitor's session and token."""
    base = re.match(r"https?://[^/]+", page.url)
    assert base is not None
    page.goto("/account")
    token = page.locator("input[name=form_token]").first.get_attribute("value")
    cookies = {each["name"]: each["value"] for each in page.context.cookies()}
    sent = httpx2.post(f"{base[0]}{path}", data={"form_token": token, **form}, cookies=cookies)
    return sent.status_code

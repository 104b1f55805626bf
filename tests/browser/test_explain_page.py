"""What would be recorded of a link, as somebody who answers for privacy asks it."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator

from app.store import settings as store
from app.tracking.modes import Mode, Origin, Permission
from tests.browser.pages import Page, Pages, expect, follow, space_path
from tests.browser.sent_mails import Intruder, mailing_path, make_mailing, register_links, tracked_link

RECIPIENT = "erika-4711"
TO = "https://shop.example/jackets?size=m"


class Shop:
    """A space with an event that tracks by permission and one that inherits, each with a mailing."""

    def __init__(self, pages: Pages, name: str, default: str) -> None:
        self._pages = pages
        self.space = pages.make_space(name, default=default)
        self.asks = pages.make_event(self.space, "Asks", by_permission=True)
        self.inherits = pages.make_event(self.space, "Inherits")
        self.mailing = make_mailing(pages, self.space, "Autumn", self.asks)
        self.other_mailing = make_mailing(pages, self.space, "Invoice", self.inherits)
        register_links(pages, self.mailing, {"https://shop.example/jackets?size": "Jackets"}, {})

    def link(self, *, by_permission: bool = True, **more: object) -> str:
        event, mailing = (self.asks, self.mailing) if by_permission else (self.inherits, self.other_mailing)
        more = {"recipient": RECIPIENT, "destination": TO} | more
        return tracked_link(self._pages, self.space, event, mailing, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shop(pages: Pages) -> Shop:
    return Shop(pages, "Shop", "person_based")


@pytest.fixture
def admin(pages: Pages) -> Iterator[Intruder]:
    made = Intruder(pages, "admin")
    yield made
    made.close()


def ask(page: Page, address: str, path: str = "/explain") -> None:
    page.goto(path)
    page.get_by_label("Address of the tracked link or pixel").fill(address)
    follow(page.get_by_role("button", name="Explain", exact=True))


def result(page: Page) -> Locator:
    return page.locator("h2#result-heading")


def held(page: Page) -> dict[str, str]:
    rows = page.get_by_role("table").locator("tbody tr")
    return {row.get_by_role("rowheader").inner_text(): row.get_by_role("cell").inner_text() for row in rows.all()}


def asked(pages: Pages) -> list[tuple[str, ...]]:
    rows = pages.query("select who, object, old, new from mailtrail.audit where action = 'link explained' order by id")
    return [tuple(row) for row in rows]


def test_a_granted_permission_names_the_recipient_and_everything_that_is_kept(pages: Pages, shop: Shop) -> None:
    before = asked(pages)
    with pages.browsing("admin") as page:
        page.goto(mailing_path(shop.space, shop.mailing))
        page.get_by_role("main").get_by_role("link", name="Explain a link").click()
        expect(page).to_have_url(f"{pages.base}{space_path(shop.space)}/explain")
        link = shop.link()
        ask(page, f" {link}\n")
        expect(result(page)).to_have_text("Would be recorded: person-based")
        expect(page.get_by_role("main")).to_contain_text("the recipient had granted it when the mail was made")
        expect(page.get_by_role("main")).to_contain_text(RECIPIENT)
        expect(page.get_by_role("main")).to_contain_text(TO)
        assert {
            "Recipient": "yes",
            "Which message it was": "yes",
            "Time": "exact",
            "IP address": "not recorded",
            "Mail program or browser": "in full",
            "Clicked address": "in full",
            "Space, event, mailing, number of the link": "yes",
        } == held(page)
        assert link in page.get_by_label("Address of the tracked link or pixel").input_value()
        assert "/explain" in page.url
        assert "c/" not in page.url
        about = page.get_by_role("region", name="About this link")
        assert mailing_path(shop.space, shop.mailing) == about.get_by_role("link", name="Autumn").get_attribute("href")
    # Only that somebody asked is written down, and nothing is recorded.
    assert [("user:admin", f"{shop.mailing:012x}/1", None, None)] == asked(pages)[len(before) :]
    assert 0 == pages.query("select count(*) from mailtrail.hits")[0][0]
    assert [] == [row for row in pages.query("select * from mailtrail.audit") if RECIPIENT in str(dict(row))]


@pytest.mark.parametrize(
    ("asks_permission", "ceiling", "permission", "heading", "sentence"),
    [
        (True, Mode.PERSON_BASED, Permission.DENIED, "anonymized", "the recipient had denied it"),
        (True, Mode.PERSON_BASED, Permission.UNKNOWN, "anonymized", "the recipient's was not known"),
        (True, Mode.ANONYMIZED, Permission.GRANTED, "anonymized", "a later setting never makes it more talkative"),
        (
            False,
            Mode.ANONYMIZED,
            Permission.DENIED,
            "anonymized",
            "The event follows the space's default: Person-based.",
        ),
        (True, Mode.AGGREGATE, Permission.GRANTED, "aggregate", "at most this was allowed: Aggregate."),
    ],
)
def test_the_rule_is_said_and_the_recipient_is_not(
    pages: Pages,
    shop: Shop,
    asks_permission: bool,
    ceiling: Mode,
    permission: Permission,
    heading: str,
    sentence: str,
) -> None:
    with pages.browsing("admin") as page:
        ask(page, shop.link(by_permission=asks_permission, ceiling=ceiling, permission=permission))
        expect(result(page)).to_have_text(f"Would be recorded: {heading}")
        expect(page.get_by_role("main")).to_contain_text(sentence)
        expect(page.locator("body")).not_to_contain_text(RECIPIENT)
        kept = held(page)
        assert ("not recorded", "not recorded") == (kept["Recipient"], kept["IP address"])
        assert {"anonymized": "to the minute", "aggregate": "to the hour"}[heading] == kept["Time"]
        assert "only the number of the link" == kept["Clicked address"]


def test_the_default_decides_for_an_event_that_inherits_and_deletion_over_all(pages: Pages) -> None:
    shop = Shop(pages, "Changing", "person_based")
    link = shop.link(by_permission=False, permission=Permission.DENIED)
    with pages.browsing("admin") as page:
        ask(page, link)
        expect(result(page)).to_have_text("Would be recorded: person-based")
        pages.in_database(lambda each: store.change_space(each, "test", shop.space, default="anonymized"))
        ask(page, link)
        expect(result(page)).to_have_text("Would be recorded: anonymized")
        expect(page.get_by_role("main")).to_contain_text("The event follows the space's default: Anonymized.")
        pages.in_database(lambda each: store.delete_space(each, "test", shop.space))
        ask(page, link)
        expect(result(page)).to_have_text("Nothing would be recorded")
        expect(page.get_by_role("main")).to_contain_text("Deleted spaces record nothing.")
        expect(page.get_by_role("main")).to_contain_text("There would be no hit at all.")


def test_the_relay_s_setting_decides_for_relay_mails(pages: Pages, shop: Shop) -> None:
    with pages.browsing("admin") as page:
        ask(page, shop.link(origin=Origin.RELAY))
        expect(result(page)).to_have_text("Nothing would be recorded")
        expect(page.get_by_role("main")).to_contain_text("the space's setting for the relay decides: Off.")


def test_where_it_leads_now(pages: Pages, shop: Shop) -> None:
    link = shop.link()
    place = (shop.space, shop.mailing, 1)
    with pages.browsing("admin") as page:
        pages.in_database(lambda each: store.override_link(each, "test", *place, "https://new.example/{size}"))
        ask(page, link)
        expect(page.get_by_role("region", name="About this link")).to_contain_text("https://new.example/m")
        expect(page.get_by_role("region", name="About this link")).to_contain_text("corrected after sending")
        pages.in_database(lambda each: store.override_link(each, "test", *place, None))
        ask(page, link)
        expect(page.get_by_role("region", name="About this link")).to_contain_text("Nowhere: switched off")
    pages.in_database(lambda each: store.restore_link(each, "test", *place))


def altered(link: str) -> str:
    """With another character inside its seal."""
    return link[:-20] + ("B" if link[-20] == "A" else "A") + link[-19:]


def test_what_is_no_link_of_theirs_is_not_found_whatever_it_is(pages: Pages, shop: Shop) -> None:
    other = Shop(pages, "Other", "anonymized")
    pages.make_user("of other", "admin", other.space)
    sentence = "This is no tracked link or pixel that you can see; paste its whole address."
    before = asked(pages)
    with pages.browsing("of other") as page:
        for address in (
            shop.link(),
            altered(other.link(by_permission=False)),
            "https://x.example/",
            "",
            "<script>",
            "/c/é",
            "/c/" + "A" * 9_000,
        ):
            ask(page, address)
            field = page.get_by_label("Address of the tracked link or pixel")
            expect(field).to_have_attribute("aria-invalid", "true")
            expect(page.locator("#explain-address-error")).to_contain_text(sentence)
            assert 0 == result(page).count()
            assert address == field.input_value()
        ask(page, other.link(by_permission=False))
        expect(result(page)).to_have_text("Would be recorded: anonymized")
    assert 1 == len(asked(pages)) - len(before)


def test_a_space_s_page_explains_its_own_links_only(pages: Pages, shop: Shop, admin: Intruder) -> None:
    other = Shop(pages, "Second", "anonymized")
    answer = admin.post(f"{space_path(other.space)}/explain", address=shop.link())
    assert (404, False) == (answer.status_code, "Would be recorded" in answer.text)
    assert 200 == admin.post(f"{space_path(shop.space)}/explain", address=shop.link()).status_code
    assert "no-store" == admin.get("/explain").headers["cache-control"]


def test_a_name_with_html_is_shown_as_text(pages: Pages) -> None:
    hostile = "<script>document.title='taken'</script>"
    shop = Shop(pages, hostile, "person_based")
    link = shop.link(recipient="<b>erika</b>", destination="https://x.example/?<i>=1")
    with pages.browsing("admin", javascript=True) as page:
        ask(page, link)
        expect(page.get_by_role("main")).to_contain_text("<b>erika</b>")
        assert "taken" != page.title()
        assert 0 == page.locator("body script, main b, main i").count()


def test_who_may_not_ask(pages: Pages, shop: Shop, admin: Intruder) -> None:
    before = asked(pages)
    for name in ("viewer", "editor"):
        somebody = Intruder(pages, name)
        for path in ("/explain", f"{space_path(shop.space)}/explain"):
            assert 403 == somebody.get(path).status_code
            assert 403 == somebody.post(path, address=shop.link()).status_code
        somebody.close()
        with pages.browsing(name) as page:
            page.goto("/")
            assert 0 == page.get_by_role("link", name="Explain a link").count()
    assert 403 == admin.post("/explain", with_token=False, address=shop.link()).status_code
    pages.make_user("of none", "admin", pages.make_space("None"))
    stranger = Intruder(pages, "of none")
    assert 404 == stranger.get(f"{space_path(shop.space)}/explain").status_code
    assert 404 == stranger.post(f"{space_path(shop.space)}/explain", address=shop.link()).status_code
    stranger.close()
    assert before == asked(pages)


def test_in_german(pages: Pages, shop: Shop) -> None:
    with pages.browsing("admin", language="de", width=320) as page:
        page.goto("/explain")
        page.get_by_label("Adresse des Tracking-Links oder Zählpixels").fill(shop.link(permission=Permission.DENIED))
        page.get_by_role("button", name="Erklären", exact=True).click()
        expect(result(page)).to_have_text("Würde aufgezeichnet: anonymisiert")
        assert 320 >= page.evaluate("document.documentElement.scrollWidth")

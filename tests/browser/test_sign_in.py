"""Signing in and out, the link that signs in once, the language, and where a sign-in leads to."""

import re

import httpx2
import pytest

from tests.browser.pages import PASSWORD, Page, Pages, expect, space_path


def _fill(page: Page, name: str, password: str) -> None:
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()


def test_name_and_password(pages: Pages) -> None:
    with pages.browsing(None) as page:
        page.goto("/")
        expect(page).to_have_url(f"{pages.base}/sign-in?next=/")
        _fill(page, "admin", "not the password")
        expect(page.get_by_text("Name or password is wrong.")).to_be_visible()
        expect(page.get_by_label("Name", exact=True)).to_have_value("admin")
        expect(page.get_by_label("Password", exact=True)).to_have_value("")
        _fill(page, "ADMIN", PASSWORD)
        expect(page.get_by_role("heading", name="Spaces", level=1)).to_be_visible()

        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("You are signed out.")).to_be_visible()
        page.goto("/account")
        expect(page).to_have_url(f"{pages.base}/sign-in?next=/account")


def test_the_sign_in_leads_where_one_wanted_to_go_but_never_elsewhere(pages: Pages) -> None:
    with pages.browsing(None) as page:
        page.goto("/account")
        _fill(page, "editor", PASSWORD)
        expect(page).to_have_url(f"{pages.base}/account")
    for elsewhere in ("https://example.com/", "//example.com/", "/\\example.com", "javascript:alert(1)"):
        with pages.browsing(None) as page:
            page.goto(f"/sign-in?next={elsewhere}")
            _fill(page, "admin", PASSWORD)
            expect(page).to_have_url(f"{pages.base}/")


def test_many_wrong_passwords_have_to_wait(pages: Pages) -> None:
    pages.make_user("guessed", "viewer")
    with pages.browsing(None) as page:
        page.goto("/sign-in")
        for _ in range(5):
            _fill(page, "guessed", "guess")
            expect(page.get_by_text("Name or password is wrong.")).to_be_visible()
        _fill(page, "guessed", PASSWORD)
        expect(page.get_by_text("Too many attempts for this name")).to_be_visible()
        _fill(page, "editor", PASSWORD)
        expect(page.get_by_role("heading", name="Spaces", level=1)).to_be_visible()


@pytest.mark.parametrize("name", ["\x00", "a\x00b", "x" * 5000, "\ud800", "' or 1=1 --"])
def test_strange_names_are_nobody(pages: Pages, name: str) -> None:
    with httpx2.Client(base_url=pages.base) as browser:
        token = _token(browser.get("/sign-in").text)
        form = {"form_token": token, "name": name.encode("utf-8", "surrogatepass"), "password": "x", "next": "/"}
        answer = browser.post("/sign-in", data=form)
    assert (403, True) == (answer.status_code, "Name or password is wrong." in answer.text)


def test_one_time_link_is_used_by_its_button_only(pages: Pages) -> None:
    pages.make_user("newcomer", "editor")
    link = pages.one_time_link("newcomer")
    for _ in range(3):  # what a mail scanner does
        assert 200 == httpx2.get(link).status_code
    with pages.browsing(None) as page:
        page.goto(link)
        page.get_by_role("button", name="Sign in now").click()
        expect(page).to_have_url(f"{pages.base}/account?welcome=1")
        expect(page.get_by_text("Choose a password now")).to_be_visible()
    with pages.browsing(None) as page:
        page.goto(link)
        page.get_by_role("button", name="Sign in now").click()
        expect(page.get_by_text("This link was used already")).to_be_visible()
        page.goto("/account")
        expect(page).to_have_url(re.compile("/sign-in"))


def test_choosing_a_password(pages: Pages) -> None:
    pages.make_user("chooser", "viewer")
    with pages.browsing("chooser") as page, pages.browsing("chooser") as elsewhere:
        page.get_by_label("New password").fill("twelve letters!")
        page.get_by_label("The same once more").fill("twelve letterz!")
        page.get_by_role("button", name="Save password").click()
        again = page.get_by_label("The same once more")
        expect(again).to_have_attribute("aria-invalid", "true")
        expect(again).to_have_accessible_description(re.compile("two passwords differ"))
        expect(page.get_by_role("alert").get_by_role("link")).to_have_attribute("href", "#password-repeated")

        page.locator("[minlength]").evaluate_all(
            "fields => fields.forEach(field => field.removeAttribute('minlength'))"
        )
        page.get_by_label("New password").fill("short")
        again.fill("short")
        page.get_by_role("button", name="Save password").click()
        expect(page.get_by_role("alert")).to_contain_text("Choose a password with 12 to 1000 characters.")

        page.get_by_label("New password").fill("twelve letters!")
        again.fill("twelve letters!")
        page.get_by_role("button", name="Save password").click()
        expect(page.get_by_role("status")).to_contain_text("Your password is saved.")
        elsewhere.goto("/account")
        expect(elsewhere).to_have_url(re.compile("/sign-in"))
    with pages.browsing(None) as page:
        page.goto("/sign-in")
        _fill(page, "chooser", "twelve letters!")
        expect(page.get_by_role("heading", name="Spaces", level=1)).to_be_visible()


def test_language_follows_the_browser_and_can_be_switched(pages: Pages) -> None:
    with pages.browsing("viewer", language="de") as page:
        expect(page.locator("html")).to_have_attribute("lang", "de")
        expect(page.get_by_role("heading", name="Ihr Konto")).to_be_visible()
        page.get_by_role("button", name="English").click()
        expect(page).to_have_url(f"{pages.base}/account")
        expect(page.locator("html")).to_have_attribute("lang", "en")
        page.goto("/")
        expect(page.get_by_role("heading", name="Spaces", level=1)).to_be_visible()


def test_a_user_of_one_space_is_sent_to_it_and_sees_no_other(pages: Pages) -> None:
    own, other = pages.make_space("Own space"), pages.make_space("Other space")
    event = pages.make_event(other, "Secret plans")
    pages.make_user("insider", "admin", own)
    with pages.browsing("insider") as page:
        page.goto("/")
        expect(page).to_have_url(f"{pages.base}{space_path(own)}/tracking")
        for path in ("", "/tracking", "/events", "/events/new", f"/events/{event:08x}", "/delete"):
            answer = page.goto(f"{space_path(other)}{path}")
            assert answer is not None
            assert 404 == answer.status
            assert "Other space" not in page.content()
            assert "Secret plans" not in page.content()
        refused = page.goto("/spaces/new")
        assert refused is not None
        assert 403 == refused.status


def test_forms_of_other_sites_and_without_their_token_are_refused(pages: Pages) -> None:
    with httpx2.Client(base_url=pages.base) as browser:
        token = _token(browser.get("/sign-in").text)
        form = {"form_token": token, "name": "admin", "password": PASSWORD, "next": "/"}
        assert 403 == browser.post("/sign-in", data=form, headers={"origin": "https://example.com"}).status_code
        assert 403 == browser.post("/sign-in", data=form, headers={"sec-fetch-site": "cross-site"}).status_code
        assert 403 == browser.post("/sign-in", data=form | {"form_token": "0" * 64}).status_code
        signed_in = browser.post("/sign-in", data=form)
        assert 303 == signed_in.status_code
        assert 403 == browser.post("/sign-out", data={"form_token": token}).status_code
        cookie = signed_in.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=lax", "path=/"))


def _token(html: str) -> str:
    found = re.search(r'name="form_token" value="([0-9a-f]{64})"', html)
    assert found is not None
    return found[1]

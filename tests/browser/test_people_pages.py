"""API keys and users: made, shown once, changed and taken away, by who manages all spaces or one."""

import re
from collections.abc import Iterator

import httpx2
import pytest
from playwright.sync_api import Locator

from app.store import api_keys
from tests.browser.pages import Page, Pages, expect, follow, space_path
from tests.browser.sent_mails import Intruder

HOSTILE = "<script>document.title='taken'</script>"
FULL_KEY = {"name": "Robot", "scope_read": "yes", "space": "all"}


@pytest.fixture
def admin(pages: Pages) -> Iterator[Intruder]:
    made = Intruder(pages, "admin")
    yield made
    made.close()


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name))


def make_key(pages: Pages, name: str, space: int | None = None) -> str:
    """Its id as paths have it."""
    made, _ = pages.in_database(lambda each: api_keys.create_api_key(each, "test", name, ["read"], space))
    return f"{made['id']:08x}"


def make_manager(pages: Pages, name: str) -> int:
    """An administrator of a new space of the same name; the space."""
    space = pages.make_space(name)
    pages.make_user(name, "admin", space)
    return space


def user_id(pages: Pages, name: str) -> int:
    return int(pages.query("select id from vault.users where name = $1", name)[0]["id"])


def state(pages: Pages, name: str) -> tuple[str, bool, int | None]:
    (found,) = pages.query("select role, disabled_at, space_id from vault.users where name = $1", name)
    return found["role"], found["disabled_at"] is not None, found["space_id"]


def count(pages: Pages, table: str) -> int:
    return int(pages.query(f"select count(*) from vault.{table}")[0][0])


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_works_and_is_revoked(pages: Pages) -> None:
    space = pages.make_space("Shop")
    with pages.browsing("admin") as page:
        page.goto("/")
        page.get_by_role("link", name="API keys").click()
        page.get_by_label("Name", exact=True).fill("Shop system")
        page.get_by_label("Read").check()
        page.get_by_label("Prepare mails").check()
        page.get_by_label("Space", exact=True).select_option(label="Shop")
        follow(page.get_by_role("button", name="Make the key"))
        expect(page.get_by_role("status")).to_contain_text("shown this once")
        secret = page.locator("#secret").inner_text()
        assert re.fullmatch(r"mtk_[\w-]{40,}", secret)
        assert f"{pages.base}/keys" == page.url
        seen = httpx2.get(f"{pages.base}/api/v1/spaces", headers={"authorization": f"Bearer {secret}"})
        assert ["Shop"] == [each["name"] for each in seen.json()["items"]]

        page.goto("/keys")
        expect(page.locator("body")).not_to_contain_text(secret)
        expect(row(page, "Shop system")).to_contain_text("Read, Prepare mails")
        row(page, "Shop system").get_by_role("link", name="Shop", exact=True).click()
        expect(page).to_have_url(f"{pages.base}{space_path(space)}/keys")
        page.goto("/keys")
        row(page, "Shop system").get_by_role("link", name="Revoke").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Revoke “Shop system”?")
        page.get_by_role("link", name="Cancel").click()
        expect(row(page, "Shop system")).not_to_contain_text("Revoked")
        row(page, "Shop system").get_by_role("link", name="Revoke").click()
        page.get_by_role("button", name="Revoke for good").click()
        expect(page.get_by_role("status")).to_contain_text("The key is revoked.")
        expect(row(page, "Shop system")).to_contain_text("Revoked")
        refused = httpx2.get(f"{pages.base}/api/v1/spaces", headers={"authorization": f"Bearer {secret}"})
        assert 401 == refused.status_code
    stored = [str(dict(each)) for each in pages.query("select * from vault.api_keys")]
    stored += [str(dict(each)) for each in pages.query("select * from mailtrail.audit")]
    assert [] == [text for text in stored if secret in text]
    assert secret not in pages.service.log.read_text()


def test_a_key_needs_a_name_a_scope_and_a_space(pages: Pages) -> None:
    before = count(pages, "api_keys")
    with pages.browsing("admin") as page:
        for name, scope, space, sentence in (
            ("", True, "all", "Enter a name"),
            ("Robot", False, "all", "Tick at least one thing"),
            ("Robot", True, "", "Choose one space, or all of them."),
        ):
            page.goto("/keys")
            page.get_by_label("Name", exact=True).fill(name)
            page.get_by_label("Explain links, set the relay").set_checked(scope)
            page.get_by_label("Space", exact=True).select_option(space)
            follow(page.get_by_role("button", name="Make the key"))
            expect(page.get_by_role("alert")).to_contain_text(sentence)
            link = page.get_by_role("alert").get_by_role("link").get_attribute("href") or ""
            assert 1 == page.locator(link).count()
            expect(page.get_by_label("Name", exact=True)).to_have_value(name)
            expect(page.get_by_label("Explain links, set the relay")).to_be_checked(checked=scope)
            expect(page.get_by_label("Space", exact=True)).to_have_value(space)
    assert before == count(pages, "api_keys")


def test_who_manages_one_space_manages_its_keys_only(pages: Pages) -> None:
    own, other = make_manager(pages, "Own keys"), pages.make_space("Other keys")
    others, everywhere = make_key(pages, "Of the other", other), make_key(pages, "Of all")
    with pages.browsing("Own keys") as page:
        page.goto("/keys")
        expect(page).to_have_url(f"{pages.base}{space_path(own)}/keys")
        assert 0 == page.get_by_role("combobox", name="Space", exact=True).count()
        page.get_by_label("Name", exact=True).fill("Mine")
        page.get_by_label("Read").check()
        follow(page.get_by_role("button", name="Make the key"))
        expect(page.get_by_role("status")).to_contain_text("Mine")
        assert ["Mine"] == page.get_by_role("rowheader").all_inner_texts()
    manager = Intruder(pages, "Own keys")
    for key in (others, everywhere):
        for path in (
            f"{space_path(own)}/keys/{key}/revoke",
            f"{space_path(other)}/keys/{key}/revoke",
            f"/keys/{key}/revoke",
        ):
            assert 404 == manager.get(path).status_code
            assert 404 == manager.post(path).status_code
    assert 404 == manager.get(f"{space_path(other)}/keys").status_code
    assert 404 == manager.post(f"{space_path(other)}/keys", **FULL_KEY).status_code
    before = count(pages, "api_keys")
    assert 303 == manager.post("/keys", **FULL_KEY).status_code
    assert 200 == manager.post(f"{space_path(own)}/keys", **FULL_KEY).status_code
    manager.close()
    assert before + 1 == count(pages, "api_keys")
    made = pages.query("select space_id from vault.api_keys where name = 'Robot' and space_id is not null")
    assert [own] == [each["space_id"] for each in made]
    kept = pages.query("select revoked_at from vault.api_keys where name in ('Of the other', 'Of all')")
    assert [None, None] == [each["revoked_at"] for each in kept]


def test_forms_of_keys_from_elsewhere_or_others_change_nothing(pages: Pages, admin: Intruder) -> None:
    key = make_key(pages, "Kept")
    before = count(pages, "api_keys")
    assert 403 == admin.post("/keys", with_token=False, **FULL_KEY).status_code
    assert 403 == admin.post(f"/keys/{key}/revoke", with_token=False).status_code
    for name in ("viewer", "editor"):
        somebody = Intruder(pages, name)
        for path in ("/keys", f"/keys/{key}/revoke"):
            assert 403 == somebody.get(path).status_code
            assert 403 == somebody.post(path, **FULL_KEY).status_code
        somebody.close()
    for path in ("/keys/ffffffff/revoke", "/keys/x/revoke", f"/keys/{key.upper()}z/revoke"):
        assert 404 == admin.post(path).status_code
    assert before == count(pages, "api_keys")
    assert None is pages.query("select revoked_at from vault.api_keys where name = 'Kept'")[0]["revoked_at"]
    assert "no-store" == admin.post("/keys", **FULL_KEY).headers["cache-control"]


# --- users -----------------------------------------------------------------------------------------------------------


def test_a_user_is_made_and_comes_in_by_the_link(pages: Pages) -> None:
    space = pages.make_space("Users' shop")
    with pages.browsing("admin") as page:
        page.goto("/")
        page.get_by_role("link", name="Users", exact=True).click()
        page.get_by_label("Name", exact=True).fill("erika@shop.example")
        page.get_by_role("radio", name="Editor").check()
        page.get_by_label("Space", exact=True).select_option(label="Users' shop")
        follow(page.get_by_role("button", name="Make the user and a sign-in link"))
        expect(page.get_by_role("status")).to_contain_text("erika@shop.example may sign in")
        link = page.locator("#link").inner_text()
        assert link.startswith(f"{pages.base}/sign-in/once/")
        assert f"{pages.base}/users" == page.url
        page.goto("/users")
        expect(page.locator("body")).not_to_contain_text("/sign-in/once/")
        assert ("editor", False, space) == state(pages, "erika@shop.example")
    with pages.browsing(None) as page:
        page.goto(link)
        page.get_by_role("main").get_by_role("button").click()
        expect(page).to_have_url(f"{pages.base}/account?welcome=1")
        page.goto("/")
        expect(page).to_have_url(f"{pages.base}{space_path(space)}/tracking")
        assert 0 == page.get_by_role("link", name="Users", exact=True).count()


def test_a_role_is_changed_and_somebody_is_shut_out_and_let_in(pages: Pages) -> None:
    pages.make_user("max", "viewer")
    with pages.browsing("max") as theirs, pages.browsing("admin") as page:
        page.goto("/users")
        page.get_by_label("Role of max").select_option("editor")
        row(page, "max").get_by_role("button", name="Save").click()
        expect(page.get_by_role("status")).to_have_text("The role is saved.")
        expect(page.get_by_label("Role of max")).to_have_value("editor")
        follow(row(page, "max").get_by_role("button", name="Disable"))
        expect(page.get_by_role("status")).to_contain_text("disabled and signed out everywhere")
        expect(row(page, "max")).to_contain_text("Disabled")
        assert 0 == row(page, "max").get_by_role("button", name="New sign-in link").count()
        theirs.goto("/account")
        expect(theirs).to_have_url(re.compile("/sign-in"))
        row(page, "max").get_by_role("button", name="Enable").click()
        expect(page.get_by_role("status")).to_have_text("The user may sign in again.")
        row(page, "max").get_by_role("button", name="New sign-in link").click()
        expect(page.get_by_role("status")).to_contain_text("A new link for max")
        theirs.goto(page.locator("#link").inner_text())
        theirs.get_by_role("main").get_by_role("button").click()
        expect(theirs).to_have_url(f"{pages.base}/account?welcome=1")
    assert ("editor", False, None) == state(pages, "max")


def test_the_last_administrator_stays_and_nobody_changes_themselves(pages: Pages, admin: Intruder) -> None:
    own = user_id(pages, "admin")
    with pages.browsing("admin") as page:
        page.goto("/users")
        assert 0 == row(page, "admin You").get_by_role("button").count()
    for path, fields in ((f"/users/{own}/role", {"role": "viewer"}), (f"/users/{own}/access", {"disabled": "yes"})):
        answer = admin.post(path, **fields)
        assert (422, True) == (answer.status_code, "This is the last administrator of all spaces" in answer.text)
    assert ("admin", False, None) == state(pages, "admin")


def test_what_is_wrong_comes_back_at_its_field(pages: Pages, admin: Intruder) -> None:
    before = count(pages, "users")
    with pages.browsing("admin") as page:
        for name, space, sentence in (
            ("", "all", "Enter a name"),
            ("VIEWER", "all", "There is a user of this name already"),
            ("somebody", "", "Choose one space, or all of them."),
        ):
            page.goto("/users")
            page.get_by_label("Name", exact=True).fill(name)
            page.get_by_role("radio", name="Administrator").check()
            page.get_by_label("Space", exact=True).select_option(space)
            follow(page.get_by_role("button", name="Make the user and a sign-in link"))
            expect(page.get_by_role("alert")).to_contain_text(sentence)
            expect(page.get_by_label("Name", exact=True)).to_have_value(name)
            expect(page.get_by_role("radio", name="Administrator")).to_be_checked()
    for fields in ({"role": "god", "space": "all"}, {"role": "viewer", "space": "ffffffff"}, {"role": "viewer"}):
        assert 422 == admin.post("/users", name="somebody", **fields).status_code
    assert before == count(pages, "users")
    assert 0 == pages.query("select count(*) from mailtrail.audit where object = 'somebody'")[0][0]


def test_who_manages_one_space_sees_and_changes_its_users_only(pages: Pages) -> None:
    own = make_manager(pages, "Own users")
    other = pages.make_space("Other users")
    pages.make_user("of the other", "viewer", other)
    with pages.browsing("Own users") as page:
        page.goto("/users")
        assert 0 == page.get_by_role("combobox", name="Space", exact=True).count()
        page.get_by_label("Name", exact=True).fill("colleague")
        follow(page.get_by_role("button", name="Make the user and a sign-in link"))
        expect(page.get_by_role("status")).to_contain_text("colleague may sign in")
        names = [re.sub(r"\s+", " ", text) for text in page.get_by_role("rowheader").all_inner_texts()]
        assert ["colleague", "Own users You"] == names
    assert ("viewer", False, own) == state(pages, "colleague")
    manager = Intruder(pages, "Own users")
    for victim in ("of the other", "admin", "viewer"):
        for form in ("role", "access", "link"):
            path = f"/users/{user_id(pages, victim)}/{form}"
            assert 404 == manager.post(path, role="admin", disabled="yes").status_code
    for space in ("all", f"{other:08x}"):
        assert 200 == manager.post("/users", name=f"sneaky {space}", role="admin", space=space).status_code
        assert ("admin", False, own) == state(pages, f"sneaky {space}")
    manager.close()
    assert ("viewer", False, other) == state(pages, "of the other")
    assert ("admin", False, None) == state(pages, "admin")


def test_forms_of_users_from_elsewhere_or_others_change_nothing(pages: Pages, admin: Intruder) -> None:
    viewer = user_id(pages, "viewer")
    before, links = count(pages, "users"), count(pages, "one_time_sign_ins")
    posts = [("/users", {"name": "x", "role": "admin", "space": "all"})]
    posts += [(f"/users/{viewer}/{form}", {"role": "admin", "disabled": "yes"}) for form in ("role", "access", "link")]
    for path, fields in posts:
        assert 403 == admin.post(path, with_token=False, **fields).status_code
    for name in ("viewer", "editor"):
        somebody = Intruder(pages, name)
        assert 403 == somebody.get("/users").status_code
        for path, fields in posts:
            assert 403 == somebody.post(path, **fields).status_code
        somebody.close()
    for path in ("/users/0/role", "/users/x/link", f"/users/{'9' * 30}/access", f"/users/{2**60}/role"):
        assert 404 == admin.post(path, role="admin").status_code
    assert 303 == admin.get(f"/users/{viewer}/link").status_code
    assert (before, links) == (count(pages, "users"), count(pages, "one_time_sign_ins"))
    assert ("viewer", False, None) == state(pages, "viewer")


def test_behind_a_proxy_the_link_is_https(pages: Pages, admin: Intruder) -> None:
    assert (
        'id="link" class="code">https://'
        in admin.post("/users", headers={"x-forwarded-proto": "https"}, name="proxied", role="viewer", space="all").text
    )


def test_names_with_html_are_shown_as_text_in_any_language_and_width(pages: Pages) -> None:
    pages.make_user(HOSTILE, "viewer")
    make_key(pages, HOSTILE)
    with pages.browsing("admin", javascript=True, language="de", width=320) as page:
        for path in ("/users", "/keys"):
            page.goto(path)
            expect(page.get_by_role("rowheader").filter(has_text=HOSTILE)).to_be_visible()
            assert "taken" != page.title()
            assert 0 == page.locator("body script").count()
            assert 320 >= page.evaluate("document.documentElement.scrollWidth")

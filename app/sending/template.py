"""A mail's HTML compiled once and personalised for many: what is the same for all is read, judged and packed once.

Invariants: a personalised mail is the template with its fields filled, character by character, besides what
`rewrite_html` changes too; what is a link, and whether it is tracked, never depends on a value; every other placeholder
stays as it is. An error leaves nothing half done. Pure: no I/O.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from operator import itemgetter

from ..errors import DestinationRefused, MailRefused, SettingsError
from ..tracking.destinations import normalise, with_parameters
from ..tracking.fingerprints import Described, Fingerprints
from ..tracking.links import LinkEntry, describe_label, number_occurrences, pattern_of
from ..tracking.modes import Mode
from ..tracking.tokens import MESSAGE_ID, PIXEL, KeyRing, Kind, Message, PackedLink, pack_link
from ..tracking.tokens import Link as NumberedLink
from .fields import FieldRules, Marked, Part, Slot, mark_fields
from .html_links import UNSAFE_UNQUOTED, Edit, Link, change_html, pixel_tag
from .minting import Minter, click_token, opened, pixel_tokens


@dataclass(frozen=True, slots=True)
class Personalised:
    """One recipient's mail. `message_id` is None and `ceiling` is off if it carries no token.

    `untouched` counts the links left as they were: by the rewriter's reasons, or field_in_host (a value would decide
    where it leads), personalised (under an aggregate ceiling), too_long (with this recipient's values).
    """

    html: str
    message_id: str | None = None
    ceiling: Mode = Mode.OFF
    untouched: Counter[str] = field(default_factory=Counter)


_Pool = tuple[str, ...]
"""What a mail is joined of: the template's texts, which begin with an empty one, and its slots as they are written."""

_Joined = Callable[[_Pool], tuple[str, ...]]
"""Picks the parts of a text out of the pool."""


@dataclass(frozen=True, slots=True)
class TemplateLink:
    """A trackable link; `is_shared`: nothing in it could be somebody's, so that it is tracked under aggregate too."""

    entry: LinkEntry
    label: str
    number: int
    registered: bool
    has_fields: bool
    is_quoted: bool
    is_shared: bool
    packed: PackedLink
    """With a link's fields as words; `sealed` has their values."""
    sealed: _Joined
    """The packed destination."""
    destination: _Joined
    source: _Joined
    """The URL as it stands in the HTML."""

    def numbered(self, number: int) -> "TemplateLink":
        """The link with its number in the table `links`."""
        return replace(self, number=number, registered=True, packed=self.packed.numbered(number))

    def pack(self, pool: _Pool, *, has_dots: bool) -> PackedLink:
        """One with fields, with the mail's values; `has_dots`: one of them may be no name in a path, but a step up."""
        if has_dots:
            destination = "".join(self.destination(pool))
            scheme = destination.partition(":")[0]
            destination = normalise(destination, app_schemes=frozenset({scheme}))
            return pack_link(NumberedLink(self.number, destination, self.registered))
        # Percent-encoded values are what `pack_link` asks for.
        return PackedLink(self.packed.flags, self.packed.number, "".join(self.sealed(pool)).encode("ascii"))


@dataclass(frozen=True, slots=True)
class Template:
    """What `compile` made. Its links have their place in the document as numbers, unregistered, until `numbered`."""

    fields: frozenset[str]
    links: tuple[TemplateLink, ...]
    untouched: Mapping[str, int]
    """The links that stay as they are in every mail, by reason."""
    tokens: frozenset[tuple[str, Kind]]
    """What looks like links and pixels that are tracked already."""
    with_parameters: Callable[[str], "Template"]
    """The template for a mailing whose parameters its links' destinations get, where they do not have them."""
    _texts: _Pool
    _slots: tuple[Slot, ...]
    _in_urls: tuple[int, ...]
    """Where in the pool the values are that stand in URLs."""
    _source: _Joined
    _pieces: _Joined
    """The mail; empty where a link or the pixel is put in."""
    _links_at: tuple[int, ...]
    _pixel_at: int

    @classmethod
    def compile(
        cls,
        html: str,
        fields: Collection[str] = (),
        *,
        encoding: str = "utf-8",
        leave: frozenset[str] = frozenset(),
        app_schemes: frozenset[str] = frozenset(),
        parameters: str = "",
    ) -> "Template":
        """Reads the HTML by the rules of `rewrite_html`; `fields` are the names of the `{{ name }}` to be filled.

        SettingsError with the field's name for one that stands where no value can be written safely.
        """
        marked = mark_fields(html, fields)
        found: list[Link] = []

        def keep(link: Link) -> str:
            found.append(link)
            return str(len(found))  # told from the other edits' texts by being a number

        changes = change_html(marked.html, keep, "", FieldRules(encoding, leave, app_schemes, marked=marked))
        again = partial(cls.compile, html, fields, encoding=encoding, leave=leave, app_schemes=app_schemes)
        return _assemble(
            marked,
            found,
            changes.edits,
            frozenset(fields),
            changes.untouched,
            parameters,
            lambda others: again(parameters=others),
        )

    def numbered(self, numbers: Sequence[int]) -> "Template":
        """The template with the links' numbers in the table `links`, in their order."""
        links = tuple(link.numbered(number) for link, number in zip(self.links, numbers, strict=True))
        return replace(self, links=links)

    def describe(self, fingerprints: Fingerprints) -> list[Described]:
        """The links as a mailing's table `links` may know them."""
        return [fingerprints.describe(link.entry, link.label) for link in self.links]

    def personalise(self, minter: Minter, values: Mapping[str, str]) -> Personalised:
        """The mail of the minter's message, with a value for every field.

        SettingsError with the field's name for a value that is missing, not declared or no text; MailRefused for a
        template that has tokens of ours already.
        """
        self.refuse_tracked(minter.ring)
        pool = self._write(values)
        untouched = Counter(self.untouched)
        message_id, pixel, *tokens = _mint(minter, self._pack(minter.message, pool, untouched), untouched)
        pieces = list(self._pieces(pool))
        prefix = escape(f"{minter.base}/c/")
        for link, position, token in zip(self.links, self._links_at, tokens, strict=True):
            if not token:
                pieces[position] = "".join(link.source(pool))
            else:
                url = prefix + token
                pieces[position] = url if link.is_quoted or not UNSAFE_UNQUOTED.search(url) else f'"{url}"'
        pieces[self._pixel_at] = pixel_tag(f"{minter.base}/o/{pixel}.gif")
        return Personalised("".join(pieces), message_id, minter.message.ceiling, untouched)

    def fill(self, values: Mapping[str, str]) -> str:
        """The mail with nothing tracked: the template with its fields filled. SettingsError as in `personalise`."""
        return "".join(self._source(self._write(values)))

    def refuse_tracked(self, ring: KeyRing) -> None:
        """MailRefused for a template made of a mail that was tracked: all would be recorded as that mail's message."""
        if self.tokens and any(opened(ring, token, kind) for token, kind in self.tokens):
            raise MailRefused("the template has a tracked link or pixel of one mail; compile the original instead")

    def _write(self, values: Mapping[str, str]) -> _Pool:
        if values.keys() != self.fields:
            raise _difference(self.fields, values)
        try:
            return (*self._texts, *[slot.write(values[slot.field]) for slot in self._slots])
        except (AttributeError, TypeError, UnicodeEncodeError):
            raise _no_text(values) from None

    def _pack(self, message: Message, pool: _Pool, untouched: Counter[str]) -> list[PackedLink | None]:
        has_dots = not all(pool[place].strip(".") for place in self._in_urls)
        if message.ceiling is not Mode.AGGREGATE:
            return [
                MESSAGE_ID,
                PIXEL,
                *[link.pack(pool, has_dots=has_dots) if link.has_fields else link.packed for link in self.links],
            ]
        packed = [link.packed if link.is_shared else None for link in self.links]
        if personalised := packed.count(None):
            untouched["personalised"] += personalised
        return [MESSAGE_ID, PIXEL, *packed]


# --- personalised ----------------------------------------------------------------------------------------------------


def _mint(minter: Minter, packed: Sequence[PackedLink | None], untouched: Counter[str]) -> list[str]:
    """The tokens; none for what is not packed, or too long with its values."""
    wanted = [link for link in packed if link is not None]
    try:
        tokens = minter.ring.mint_packed(minter.message, wanted)
    except DestinationRefused:
        tokens = [_mint_one(minter, link, untouched) for link in wanted]
    if len(tokens) == len(packed):
        return tokens
    waiting = iter(tokens)
    return ["" if link is None else next(waiting) for link in packed]


def _mint_one(minter: Minter, link: PackedLink, untouched: Counter[str]) -> str:
    try:
        return minter.ring.mint_packed(minter.message, [link])[0]
    except DestinationRefused as refused:
        untouched[refused.reason] += 1
        return ""


def _difference(fields: frozenset[str], values: Mapping[str, str]) -> SettingsError:
    for name in sorted(fields - values.keys()):
        return SettingsError(f"the field {name!r} has no value; give one, an empty text if need be", field=name)
    name = min(values.keys() - fields)
    return SettingsError(f"the template has no field {name!r}; name it among its fields, or leave it out", field=name)


def _no_text(values: Mapping[str, object]) -> SettingsError:
    for name, value in values.items():
        if not isinstance(value, str):
            return SettingsError(f"the field {name!r} takes a text, not {type(value).__name__}", field=name)
        try:
            value.encode()
        except UnicodeEncodeError:
            return SettingsError(f"the value of the field {name!r} is no Unicode text", field=name)
    raise AssertionError("every value is a text")


# --- compiled --------------------------------------------------------------------------------------------------------


class _Parts:
    """Gives each part of a template its place in every mail's pool: texts from the front, slots from the end."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {"": 0}
        self._slots: dict[Slot, int] = {}

    def joined(self, parts: Iterable[Part]) -> _Joined:
        """With two empty texts behind them, because `itemgetter` gives a tuple only of two or more."""
        return itemgetter(*[self._place(part) for part in parts], 0, 0)

    def _place(self, part: Part) -> int:
        if isinstance(part, Slot):
            return self._slots.setdefault(part, -1 - len(self._slots))
        return self._texts.setdefault(part, len(self._texts))

    @property
    def texts(self) -> _Pool:
        return tuple(self._texts)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(reversed(self._slots))

    @property
    def in_urls(self) -> tuple[int, ...]:
        return tuple(place for slot, place in self._slots.items() if slot.in_url)


def _assemble(
    marked: Marked,
    found: list[Link],
    edits: list[Edit],
    fields: frozenset[str],
    untouched: Counter[str],
    parameters: str,
    with_parameters: Callable[[str], Template],
) -> Template:
    pieces: list[Part] = []
    links_at: list[int] = []
    link_edits: list[Edit] = []
    position = pixel_at = 0
    for edit in edits:
        pieces += marked.parts(position, edit.start)
        position = edit.end
        if edit.text.isdigit():
            link_edits.append(edit)
            links_at.append(len(pieces))
            pieces.append("")
        elif edit.text:
            pixel_at = len(pieces)
            pieces.append("")
    pieces += marked.parts(position, len(marked.html))
    parts = _Parts()
    entries = number_occurrences(pattern_of(link.destination) for link in found)
    links = [
        _link(marked, parts, link, entry, place, edit, parameters)
        for place, (link, entry, edit) in enumerate(zip(found, entries, link_edits, strict=True), 1)
    ]
    joined, source = parts.joined(pieces), parts.joined(marked.parts(0, len(marked.html)))
    return Template(
        fields=fields,
        links=tuple(links),
        untouched=dict(untouched),
        tokens=_tokens(marked.html, found),
        with_parameters=with_parameters,
        _texts=parts.texts,
        _slots=parts.slots,
        _in_urls=parts.in_urls,
        _source=source,
        _pieces=joined,
        _links_at=tuple(links_at),
        _pixel_at=pixel_at,
    )


def _link(
    marked: Marked, parts: _Parts, link: Link, entry: LinkEntry, place: int, edit: Edit, parameters: str
) -> TemplateLink:
    leads_to = with_parameters(link.destination, parameters)
    packed = pack_link(NumberedLink(place, leads_to, registered=False))
    destination = marked.parts_of_destination(leads_to)
    return TemplateLink(
        entry=entry,
        label=describe_label(marked.label(link.label)),
        number=place,
        registered=False,
        has_fields=any(isinstance(part, Slot) for part in destination),
        is_quoted=marked.html[edit.start - 1] in "\"'",
        is_shared=entry[0] == link.destination,
        packed=packed,
        sealed=parts.joined(marked.parts_of_destination(packed.destination.decode("ascii"))),
        destination=parts.joined(destination),
        source=parts.joined(marked.parts(edit.start, edit.end)),
    )


def _tokens(html: str, found: list[Link]) -> frozenset[tuple[str, Kind]]:
    clicks = {(token, Kind.CLICK) for link in found if (token := click_token(link.destination))}
    opens = {(token, Kind.OPEN) for token in pixel_tokens([html.encode(errors="surrogatepass")])}
    return frozenset(clicks | opens)

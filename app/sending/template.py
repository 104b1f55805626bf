"""A mail's HTML compiled once and personalised for many: what is the same for all is read, judged and packed once.

Invariants: a personalised mail is the template with its fields filled, character by character, besides what
`rewrite_html` changes too; what is a link, and whether it is tracked, never depends on a value; every other placeholder
stays as it is. An error leaves nothing half done. Pure: no I/O.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape

from ..errors import DestinationRefused, MailRefused, SettingsError
from ..tracking.destinations import normalise
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


@dataclass(frozen=True, slots=True)
class TemplateLink:
    """A trackable link. `source` is its URL as it stands in the HTML, `destination` where it leads."""

    entry: LinkEntry
    label: str
    number: int
    registered: bool
    destination: tuple[Part, ...]
    source: tuple[Part, ...]
    is_quoted: bool
    is_shared: bool
    """Whether nothing in it could be somebody's: under aggregate only such links are tracked."""
    packed: PackedLink
    """Of a link without fields; of others the flags and the number only."""

    @property
    def has_fields(self) -> bool:
        return any(isinstance(part, Slot) for part in self.destination)

    def numbered(self, number: int) -> "TemplateLink":
        """The link with its number in the table `links`."""
        return replace(self, number=number, registered=True, packed=_pack(self.destination, number, registered=True))


@dataclass(frozen=True, slots=True)
class Template:
    """What `compile` made. Its links have their place in the document as numbers, unregistered, until `numbered`."""

    fields: frozenset[str]
    links: tuple[TemplateLink, ...]
    untouched: Mapping[str, int]
    """The links that stay as they are in every mail, by reason."""
    tokens: frozenset[tuple[str, Kind]]
    """What looks like links and pixels that are tracked already."""
    _source: tuple[Part, ...]
    _slots: tuple[Slot, ...]
    _pieces: tuple[str, ...]
    """The mail as it is joined; empty where something is put in."""
    _slots_at: tuple[tuple[int, Slot], ...]
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
        return _assemble(marked, found, changes.edits, frozenset(fields), changes.untouched)

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
        written = self._write(values)
        untouched = Counter(self.untouched)
        packed = self._pack(minter.message, written, untouched)
        message_id, pixel, *tokens = _mint(minter, packed, untouched)
        pieces = self._fill(written)
        prefix = escape(f"{minter.base}/c/")
        unsafe = UNSAFE_UNQUOTED.search(prefix) is not None
        for link, position, token in zip(self.links, self._links_at, tokens, strict=True):
            if not token:
                pieces[position] = _join(link.source, written)
            else:
                pieces[position] = f'"{prefix}{token}"' if unsafe and not link.is_quoted else prefix + token
        pieces[self._pixel_at] = pixel_tag(f"{minter.base}/o/{pixel}.gif")
        return Personalised("".join(pieces), message_id, minter.message.ceiling, untouched)

    def fill(self, values: Mapping[str, str]) -> str:
        """The mail with nothing tracked: the template with its fields filled. SettingsError as in `personalise`."""
        return _join(self._source, self._write(values))

    def refuse_tracked(self, ring: KeyRing) -> None:
        """MailRefused for a template made of a mail that was tracked: all would be recorded as that mail's message."""
        if self.tokens and any(opened(ring, token, kind) for token, kind in self.tokens):
            raise MailRefused("the template has a tracked link or pixel of one mail; compile the original instead")

    def _write(self, values: Mapping[str, str]) -> dict[Slot, str]:
        if values.keys() != self.fields:
            raise _difference(self.fields, values)
        try:
            return {slot: slot.write(values[slot.field]) for slot in self._slots}
        except (AttributeError, TypeError, UnicodeEncodeError):
            raise _no_text(values) from None

    def _pack(self, message: Message, written: dict[Slot, str], untouched: Counter[str]) -> list[PackedLink | None]:
        packed: list[PackedLink | None] = [MESSAGE_ID, PIXEL]
        for link in self.links:
            if message.ceiling is Mode.AGGREGATE and not link.is_shared:
                untouched["personalised"] += 1
                packed.append(None)
            else:
                packed.append(_personalise(link, written) if link.has_fields else link.packed)
        return packed

    def _fill(self, written: dict[Slot, str]) -> list[str]:
        pieces = list(self._pieces)
        for position, slot in self._slots_at:
            pieces[position] = written[slot]
        return pieces


# --- personalised ----------------------------------------------------------------------------------------------------


def _join(parts: Iterable[Part], written: dict[Slot, str]) -> str:
    return "".join([part if isinstance(part, str) else written[part] for part in parts])


def _personalise(link: TemplateLink, written: dict[Slot, str]) -> PackedLink:
    destination = _join(link.destination, written)
    if any(not written[part].strip(".") for part in link.destination if isinstance(part, Slot)):
        # `.` and `..` are no names in a path; what browsers make of them is what leads there.
        scheme = destination.partition(":")[0]
        destination = normalise(destination, app_schemes=frozenset({scheme}))
    return pack_link(NumberedLink(link.number, destination, link.registered))


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


def _pack(destination: Sequence[Part], number: int, *, registered: bool) -> PackedLink:
    literal = "".join(part for part in destination if isinstance(part, str))
    return pack_link(NumberedLink(number, literal, registered))


def _assemble(
    marked: Marked, found: list[Link], edits: list[Edit], fields: frozenset[str], untouched: Counter[str]
) -> Template:
    parts: list[Part] = []
    links_at: list[int] = []
    links: list[TemplateLink] = []
    entries = number_occurrences(pattern_of(link.destination) for link in found)
    position = pixel_at = 0
    for edit in edits:
        parts += marked.parts(position, edit.start)
        position = edit.end
        if edit.text.isdigit():
            place = int(edit.text)
            links.append(_link(marked, found[place - 1], entries[place - 1], place, edit))
            links_at.append(len(parts))
            parts.append("")
        elif edit.text:
            pixel_at = len(parts)
            parts.append("")
    parts += marked.parts(position, len(marked.html))
    source = tuple(marked.parts(0, len(marked.html)))
    slots = {part for part in source if isinstance(part, Slot)}
    slots |= {part for link in links for part in link.destination if isinstance(part, Slot)}
    return Template(
        fields=fields,
        links=tuple(links),
        untouched=dict(untouched),
        tokens=_tokens(marked.html, found),
        _source=source,
        _slots=tuple(slots),
        _pieces=tuple(part if isinstance(part, str) else "" for part in parts),
        _slots_at=tuple((at, part) for at, part in enumerate(parts) if isinstance(part, Slot)),
        _links_at=tuple(links_at),
        _pixel_at=pixel_at,
    )


def _link(marked: Marked, link: Link, entry: LinkEntry, place: int, edit: Edit) -> TemplateLink:
    destination = tuple(marked.parts_of_destination(link.destination))
    return TemplateLink(
        entry=entry,
        label=describe_label(marked.label(link.label)),
        number=place,
        registered=False,
        destination=destination,
        source=tuple(marked.parts(edit.start, edit.end)),
        is_quoted=marked.html[edit.start - 1] in "\"'",
        is_shared=entry[0] == link.destination,
        packed=_pack(destination, place, registered=False),
    )


def _tokens(html: str, found: list[Link]) -> frozenset[tuple[str, Kind]]:
    clicks = {(token, Kind.CLICK) for link in found if (token := click_token(link.destination))}
    opens = {(token, Kind.OPEN) for token in pixel_tokens([html.encode(errors="surrogatepass")])}
    return frozenset(clicks | opens)

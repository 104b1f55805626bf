"""What pages say of the domain's sentences: a whole sentence, in plain words, in the visitor's language.

Invariant: a sentence that is not known here is said as the domain says it, never left out.
"""

import re

from .languages import Texts, texts

_FOUND_AT = re.compile(r"line (\d+), column (\d+): (.*)", re.DOTALL)
_PLACEHOLDER = re.compile(r"%\\?\((\w+)\\?\)s")

# What the domain says, and what pages say of it where that should be plainer.
PLAINER = {
    "name or password is wrong": "Name or password is wrong",
    "too many attempts for this name; wait a quarter of an hour": (
        "Too many attempts for this name; wait a quarter of an hour, then try again"
    ),
    "this link was used or is too old; make another with `mailtrail admin sign-in`": (
        "This link was used already, or is older than an hour; ask your administrator for another one"
    ),
    "this form is too old or not from here; go back, load the page again and repeat the change": (
        "This form is too old; go back, load the page again and repeat the change"
    ),
    "this form cannot be read; go back, load the page again and repeat the change": (
        "This form cannot be read; go back, load the page again and repeat the change"
    ),
    "this form is too large; an event's definition has at most 256 KiB": (
        "This form is too large; an event's definition has at most 256 KiB"
    ),
    "this form was sent from another site and is refused": "This form was sent from another site and is refused",
    "there is no such space": "There is no such space, or you do not see it",
    "there is no such event": "There is no such event in this space",
    "there is no such page": "There is no such page",
    "the two passwords differ": "The two passwords differ; type the same one twice",
    "this is not the name of the space; type it as it is shown": (
        "This is not the name of the space; type it as it is shown"
    ),
    "choose an XML file or paste the XML": "Choose an XML file or paste the XML",
    "the space is gone": "The space has been deleted",
    "this needs the scope %(scope)s, which %(who)s does not have": (
        "Your role does not allow this; ask an administrator to do it, or to change your role"
    ),
    "this needs access to all spaces, which %(who)s does not have": (
        "This is for administrators of all spaces; ask one of them to do it"
    ),
    "the name of a space has 1 to %(most)s printable characters": "Enter a name with 1 to %(most)s characters",
    "the name of a event has 1 to %(most)s printable characters": "Enter a name with 1 to %(most)s characters",
    "the name of a mailing has 1 to %(most)s printable characters": "Enter a name with 1 to %(most)s characters",
    "the name of a user has 1 to %(most)s printable characters": "Enter a name with 1 to %(most)s characters",
    "the name of a key has 1 to %(most)s printable characters": "Enter a name with 1 to %(most)s characters",
    "there is a space %(name)s already": "There is a space of this name already; choose another name",
    "the space has an event %(name)s already": "The space has an event of this name already; choose another name",
    "the space has an event with the id %(id)s already": (
        "The space has an event whose definition has the id %(id)s already; change the id, or update that event"
    ),
    "the event's id is %(is)s and never changes; the definition says %(says)s: correct it, or make another event": (
        "The event's id is %(is)s and never changes, but this definition says %(says)s; correct the id,"
        " or make a new event"
    ),
    "a password has %(least)s to %(most)s characters": "Choose a password with %(least)s to %(most)s characters",
    "tracked links start with an absolute http or https URL without query, fragment or user,"
    " e.g. https://t.example.com": (
        "Enter a complete address with http or https, without a query or a user, such as https://t.example.com"
    ),
    "the URL cannot be written in printable ASCII": "The address cannot be written in printable letters",
    "the URL has a NUL character; remove it": "The address has a character in it that is none; type it anew",
    "the relay cannot track by permission: a relay mail has no event XML to carry it;"
    " choose off, anonymized or person_based": (
        "The mail relay cannot track by permission: a relay mail has no event XML that could carry it"
    ),
    "the event is active and in protected mode; leave protected mode first, and save within %(minutes)s minutes": (
        "The event is in protected mode; leave protected mode first, and save within %(minutes)s minutes"
    ),
    # Mailings and links
    "there is no such mailing": "There is no such mailing in this space",
    "there is no such link": "There is no such link in this mailing",
    "parameters are name=value joined by &, each name once, at most %(most)s characters,"
    " e.g. utm_source=newsletter&utm_medium=email": (
        "Enter name=value joined by &, each name once, at most %(most)s characters,"
        " such as utm_source=newsletter&utm_medium=email"
    ),
    "the event has a mailing %(name)s already": "There is a mailing of this name already; choose another name",
    "the link is relative and there is no <base href>; write the whole URL": (
        "Enter the complete address, with https:// and its host"
    ),
    "%(scheme)s: links are not tracked; use http or https": "Enter an address with http or https",
    "the link names no host": "The address names no host; enter a complete one, such as https://shop.example",
    "no browser can open this link; check its host and port": (
        "No browser can open this address; check its host and port"
    ),
    "the URL has %(length)s characters, at most %(most)s can be tracked": (
        "The address has %(length)s characters, at most %(most)s are possible"
    ),
    "a placeholder is the name of a parameter in braces, e.g. {cid}": (
        "A parameter is written as its name in braces, such as {cid}"
    ),
    "placeholders may stand in the path, query or fragment only": (
        "Parameters may stand behind the host only, not in it"
    ),
    "this is no link or pixel of yours; paste its whole address": (
        "This is no tracked link or pixel that you can see; paste its whole address"
    ),
    # People and keys
    "there is no such user": "There is no such user, or you do not see them",
    "there is no such key": "There is no such key, or it was revoked already",
    "there is a user %(name)s already": "There is a user of this name already; choose another name",
    "%(name)s is the last administrator of everything; make another one first": (
        "This is the last administrator of all spaces; make another one first"
    ),
    "a key has scopes out of %(known)s": "Tick at least one thing that the key may do",
    "a role is %(known)s, not %(word)s": "Choose one of the roles",
    "choose one space, or all of them": "Choose one space, or all of them",
}

# What is said of an event's definition, after its line and column; pages say it as it is.
OF_DEFINITIONS = (
    "the XML has %(bytes)s bytes, at most %(most)s are read; remove what no mail uses",
    "the XML has more than %(most)s elements; remove placeholders that no mail uses",
    "elements are nested deeper than %(most)s levels; an event type needs four",
    "the processing instruction %(instruction)s is not allowed; remove it",
    "the encoding %(encoding)s is not read; save the XML as UTF-8 and name that (or one of %(known)s)",
    "a document type (<!DOCTYPE …>) and its entities are not allowed; remove it",
    "the XML is empty or ends too early; close every element, <event> last",
    "this is no XML, or not in the encoding that the XML names; write & as &amp;, < as &lt;,"
    " and save the file as UTF-8",
    "the end tag closes another element than the last one opened; correct it",
    "there are no entities but &amp; &lt; &gt; &quot; &apos;; write the character itself",
    "the attribute is there twice; keep one",
    "something follows </event>; remove it",
    "the XML declaration must be the very first; remove what is before it",
    "the XML is not in the encoding it names; save it as UTF-8 and say so",
    "the document starts with <%(element)s> without xmlns; it must be %(event)s, without a prefix",
    "the document starts with <%(element)s>; it must be %(event)s, without a prefix",
    "%(text)s stands in <%(element)s>, which holds no text; remove it",
    "<%(element)s> does not belong in <%(parent)s>; did you mean %(other)s?",
    "<%(element)s> does not belong in <%(parent)s>; it holds %(known)s",
    "<%(element)s> does not belong in <%(parent)s>; remove it",
    "<%(element)s> has no <%(missing)s>; add one",
    "<%(element)s> has no <%(missing)s>; add at least one",
    "<%(element)s> has a second <%(twice)s>, the first is in line %(first)s; keep one",
    "<%(element)s> is of the namespace %(namespace)s; write %(right)s",
    "<%(element)s> has an attribute %(attribute)s, which does not exist; did you mean %(other)s?",
    "<%(element)s> has an attribute %(attribute)s, which does not exist; remove it",
    '<translation> names no language; write e.g. <translation language="en">',
    "the event's id is %(id)s; it starts with a letter, then come letters from a to z, digits and any of _ - .,"
    " at most %(most)s characters: rename it, e.g. order_confirmation",
    "the id of a %(group)s is %(id)s; it starts with a capital letter, then come letters, digits and any of"
    " %(marks)s, at most %(most)s characters: rename it, here and in the data",
    "the id %(id)s is in line %(first)s already; rename or remove one of the two",
    "placeholder %(id)s has no data type; add one of %(known)s",
    "placeholder %(id)s has a second data type; keep one",
    "an empty pattern matches nothing; fill truePattern and falsePattern, or leave them out",
    "truePattern and falsePattern are both %(pattern)s (case does not count; without the attribute they are true and"
    " false); let them differ",
    "decimalSeparator is one character and groupingSeparator another one or none, no letters, digits or signs;"
    ' write e.g. decimalSeparator="," groupingSeparator="."',
    "a pattern has 1 to %(most)s characters, e.g. yyyy-MM-dd HH:mm:ss",
    "a quote ' is not closed; close it, and write '' for the character itself",
    "a field is there twice; keep one",
    "%(letters)s is not read: the letters are %(known)s, numbers only; other text goes in quotes ''",
    "the time zone %(zone)s is not known; write one such as Europe/Berlin",
    "%(name)s is %(text)s; name %(demand)s as Group.Placeholder, or leave <%(element)s> out",
    "%(name)s names %(reference)s, which does not exist; it must be %(demand)s; did you mean %(other)s?",
    "%(name)s names %(reference)s, which does not exist; it must be %(demand)s",
    "%(name)s names %(reference)s, which is in a phlist; it must be %(demand)s; did you mean %(other)s?",
    "%(name)s names %(reference)s, which is in a phlist; it must be %(demand)s",
    "%(name)s names %(reference)s, which is a %(type)s; it must be %(demand)s; did you mean %(other)s?",
    "%(name)s names %(reference)s, which is a %(type)s; it must be %(demand)s",
    "%(name)s names %(reference)s, which is an integer; it must be %(demand)s; did you mean %(other)s?",
    "%(name)s names %(reference)s, which is an integer; it must be %(demand)s",
)
POSITION = "Line %(line)s, column %(column)s:"
PARTS = (
    "a string, long or integer placeholder in a phgroup",
    "a string placeholder (<datatype-string/>) in a phgroup",
    "a Boolean placeholder (<datatype-boolean/>) in a phgroup",
)


def said(sentence: str, language: str) -> str:
    """The domain's sentence as pages say it."""
    known = texts(language)
    position = _FOUND_AT.fullmatch(sentence)
    if position is None:
        return _whole(_translated(sentence, known))
    line, column, problem = position.groups()
    said_first = known.gettext(POSITION) % {"line": line, "column": column}
    return f"{said_first} {_whole(_translated(problem, known), capital=False)}"


def _translated(sentence: str, known: Texts) -> str:
    for pattern, plain in PATTERNS:
        if found := pattern.fullmatch(sentence):
            values = {
                name: known.gettext(value) if value in PARTS else value for name, value in found.groupdict().items()
            }
            return known.gettext(plain) % values
    return sentence


def _whole(sentence: str, *, capital: bool = True) -> str:
    begun = sentence[:1].upper() + sentence[1:] if capital else sentence
    return begun if begun.endswith((".", "?", "!")) else f"{begun}."


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(_PLACEHOLDER.sub(r"(?P<\1>.+?)", re.escape(template)), re.DOTALL)


PATTERNS = [
    (_pattern(sentence), plain)
    for sentence, plain in [*PLAINER.items(), *((sentence, sentence) for sentence in OF_DEFINITIONS)]
]

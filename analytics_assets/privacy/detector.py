r"""E-mail addresses, payment cards, phone numbers and bank accounts (IBAN) in texts, found by DuckDB's own regular expressions.

Two steps, both temporary macros on a connection: `may_identify(text)` reads a text once and says whether anything in it has
the shape of one of these; `personal_kinds(text)` then says which kinds are really there, by check digits, issuers,
countries and lengths, which is dear and asked of few texts. What is JSON may be given whole or value by value.

Not found, since numbers of anything look the same: a phone number in bare digits without a leading 0 or +, unless a word
before it says that it is one; eight digits in pairs; cards of 12 or 13 digits. Nor are addresses found that are
written to hide them (`name at example dot com`).
"""

from typing import Literal, get_args

import duckdb

from analytics_assets.warehouse.spec import literal

Kind = Literal["email", "card", "phone", "iban"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# A text begins, or JSON begins a new line in it and writes that with letters.
_ESCAPE = r"\\u[0-9A-Fa-f]{4}"
_START = rf"^|\\[bfnrt]|{_ESCAPE}"


def _one_of(signs: str) -> str:
    """One of these signs, or the space that breaks no line."""
    return rf"(?:[\x{{A0}}{signs}]|\\u00[aA]0)"


# E-mail. The name before the sign may be anything that is no separator; JSON and URLs write the sign in their own ways.
_AT = r"(?:@|%40|\\u0040)"
_NAMED = r"[^\s\"'<>()\[\],:;@\\/=&|?#!*]"
_LETTER = rf"(?:[0-9A-Za-z\x{{A1}}-\x{{FFFD}}]|{_ESCAPE})"
_DOMAIN = rf"(?:{_LETTER}(?:(?:{_LETTER}|-)*{_LETTER})?\.)+(?:[A-Za-z]{{2,24}}|xn--[0-9a-z]+)"
_EMAIL = _NAMED + _AT + _DOMAIN
_WHOLE_EMAIL = f"{_NAMED}+{_AT}{_DOMAIN}"
# Files, units of systemd and addresses of repositories are written alike.
_NO_EMAIL = r"(?i)^git@|\.(?:png|jpe?g|gif|webp|svg|avif|ico|js|mjs|css|html|json|service|socket|timer|mount|target|local)$"

# Cards: digits as issuers number them, in groups as they are printed; the check digit is tested afterwards.
_GAP = _one_of(" .-")
_CARD = (
    r"(?:[456]\d{3}|2[2-7]\d{2}|3[05689]\d{2}|8[12]\d{2})"
    rf"(?:\d{{12}}(?:\d{{2,3}})?|(?:{_GAP}\d{{4}}){{3}}(?:{_GAP}\d{{2,3}})?)"
    rf"|3(?:[47]\d|0[0-5]|[689]\d)\d(?:\d{{10,11}}|{_GAP}\d{{6}}{_GAP}\d{{4,5}})"
)
_ISSUED = "|".join(
    (
        r"4(?:\d{15}|\d{18})",  # Visa
        r"5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|220[0-4]\d{12}",  # Mastercard, Mir
        r"3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|3(?:[0689]\d|5[2-8])\d{13}",  # American Express, Diners Club, JCB
        r"(?:5[06-8]|6\d|8[12])\d{14}|(?:5[06-8]|6\d)\d{16,17}",  # Maestro, Discover, UnionPay, RuPay
    )
)

# Phones. Between two digits stand up to three of these.
_SPACED = f"{_one_of(' ./()-')}{{0,3}}"
_PLUS = r"(?:\+|%2[Bb]|\\u002[Bb])"
_ABROAD = rf"{_PLUS}\(?[1-9](?:{_SPACED}\d){{8,14}}"
_BY_ZERO = (
    rf"00[1-9](?:{_SPACED}\d){{8,13}}"
    rf"|\(?0[1-9]\d{{0,4}}\)?(?:{_one_of(' ./-')}{{1,3}}\d{{2,8}}){{1,5}}|0[1-9]\d{{8,9}}"
)
# As countries without a leading zero group them.
_GROUPED = "|".join(
    (
        r"(?:1[ .-])?(?:\([2-9]\d{2}\)[ .-]?|[2-9]\d{2}[ ./-])\d{3}[ .-]\d{4}|1[38]00[ -]\d{3}[ -]\d{3}",  # North America
        r"(?:\([1-9]\d\)[ .-]?|[1-9]\d[ ])9?\d{4}[ -]\d{4}|[6-9]\d{4}[ -]\d{5}",  # Brazil, India
        r"[5-7]\d{2}[ -]\d{3}[ -]\d{3}|(?:[6-9]\d{2}[ -]\d{2}|[1-9]\d[ -]\d{3})[ -]\d{2}[ -]\d{2}",  # Spain, Poland
        r"3\d{2}[ .-](?:\d{3}[ .-]\d{3,4}|\d{6,7})|1[3-9]\d[ -]\d{4}[ -]\d{4}",  # Italy, China
        r"8[ -]?\(9\d{2}\)[ -]?\d{3}[ -]\d{2}[ -]\d{2}",  # Russia
    )
)
_WORDS = (
    r"(?:tele)?phone|tel|mobil[eo]?|mob|cell|whatsapp|fax|sms|call|dial|contact|handy|telefon[a-z]{0,6}|celular"
    r"|cellulare|t(?:[eé]|\\u00e9)l(?:(?:[eé]|\\u00e9)fono)?|m(?:[oó]|\\u00f3)vil|tlf|电话|電話"
)
_SAID = rf"(?:{_START}|[^A-Za-z])(?i:{_WORDS})(?i:_?(?:number|num|no|nr))?[^0-9A-Za-z]{{1,6}}"
_CODES = (  # country calling codes that are assigned
    r"1|7|2(?:0|7|1[1-368]|[2346]\d|5[0-8]|9[01789])|3(?:[0-469]|5\d|7[0-8]|8[0-35-79])|4(?:[013-9]|2[013])|5(?:[1-8]|0\d|9\d)"
    r"|6(?:[0-6]|7[02-9]|8\d|9[0-2])|8(?:[1246]|0[08]|5[02356]|7[08]|8[0-368])|9(?:[0-58]|6[0-8]|7[0-79]|9[2-68])"
)
_NO_PHONE = "|".join(
    (
        r"^(?:0?[1-9]|[12]\d|3[01])[./-](?:0?[1-9]|1[0-2])[./-](?:19|20)\d{2}",  # a date
        r"^(?:19|20)\d{2}[./-](?:0[1-9]|1[0-2])[./-]",
        r"^\d\d[./-]\d\d[./-]\d\d[ -]\d\d\.\d\d",  # a date with a time
        r"^\d{3}\.\d{3}\.\d{3}\.\d{3}$",  # an address of the network
        r"^\+\d{1,3}\.\d{1,8}$|^\+\d{1,3}\.\d+-\d{1,3}\.\d+",  # a number with a fraction, a place on earth
    )
)

# Accounts: the countries of the register, with the length of their numbers.
_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HN": 28, "HR": 21, "HU": 28,
    "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28,
    "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24,
    "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26,
    "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
# In one piece, or in groups of four: digests and UUIDs begin like an account too, and one in 97 has its check digits.
_IBAN = (
    rf"(?i:{'|'.join(_LENGTHS)})\d{{2}}"
    r"(?:[0-9A-Za-z]{11,30}|(?:[ -][0-9A-Za-z]{4}){2,7}(?:[ -][0-9A-Za-z]{1,3})?)"
)

# What stands before a shape, the shape, and what may follow it.
# A space behind a digit is the middle of a longer number.
_BEFORE, _AFTER = rf"(?:(?:{_START}) ?|[^0-9A-Za-z_./+# -]|[^0-9] )", r"(?:$|[^0-9A-Za-z_.,/+-]|[.,/+-](?:$|[^0-9])|x\d)"
_CARDS = rf"(?:{_START}|[^0-9A-Za-z.])", _CARD, r"(?:$|[^0-9A-Za-z.,]|\.(?:$|[^0-9])|,(?:$|[^0-9]|\d{4}))"
_PHONES = (
    (rf"(?:{_START}|[^0-9A-Za-z_+])", _ABROAD, _AFTER),
    (_BEFORE, f"{_BY_ZERO}|{_GROUPED}", _AFTER),
    (_SAID, rf"\d(?:{_SPACED}\d){{6,13}}", _AFTER),
)
_IBANS = rf"(?:{_START}|[^0-9A-Za-z-])", _IBAN, r"(?:$|[^0-9A-Za-z])"


def _any(*shapes: tuple[str, str, str]) -> str:
    return literal("|".join(f"{before}(?:{shape}){after}" for before, shape, after in shapes))


def _all_of(*shapes: tuple[str, str, str]) -> str:
    """SQL of a list of all that has one of the shapes, in the text `t`."""
    found = [f"regexp_extract_all(t, {literal(f'{before}({shape}){after}')}, 1)" for before, shape, after in shapes]
    return found[0] if len(found) == 1 else f"flatten([{', '.join(found)}])"


_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MACROS = f"""
create or replace temp macro digits(t) as regexp_replace(t, '[^0-9]', '', 'g');

create or replace temp macro may_identify(t) as
    ((contains(t, '@') or contains(t, '%40') or contains(t, '\\u0040')) and regexp_matches(t, {literal(_EMAIL)}))
    or regexp_matches(t, {_any(_CARDS, *_PHONES, _IBANS)});

create or replace temp macro is_email(t) as not regexp_matches(t, {literal(_NO_EMAIL)});

create or replace temp macro luhn_holds(d) as list_sum(list_transform(string_split(reverse(d), '')::int[], lambda c, i:
    case when i % 2 = 1 then c when c < 5 then 2 * c else 2 * c - 9 end)) % 10 = 0;

create or replace temp macro is_card(d) as regexp_full_match(d, {literal(_ISSUED)}) and luhn_holds(d);

create or replace temp macro is_phone(t, d) as not regexp_matches(t, {literal(_NO_PHONE)}) and case
    when t[1] = '+' then length(d) between 9 and 15 and regexp_matches(d, {literal(f"^(?:{_CODES})")})
    -- Zeros before an id look alike: bare ones are no number of North America.
    when d[:2] = '00' then length(d) >= 11 and regexp_matches(d, {literal(f"^00(?:{_CODES})")}) and (t <> d or d[3] <> '1')
    when d[1] = '0' then length(d) between 9 and 12
    else true end;

create or replace temp macro mod_97(t) as list_reduce(
    list_transform(string_split(t[5:] || t[:4], ''), lambda c: instr('{_LETTERS}', c)::int - 1),
    lambda a, b: (a * case when b < 10 then 10 else 100 end + b) % 97);

create or replace temp macro length_of(country) as
    map {{{", ".join(f"'{code}': {length}" for code, length in _LENGTHS.items())}}}[country];

-- Behind groups a word may look like one more of them.
create or replace temp macro is_iban(t, spaced) as
    (length(t) = length_of(t[:2]) or (spaced and length(t) > length_of(t[:2]))) and mod_97(t[:length_of(t[:2])]) = 1;

-- Taking a text apart is ten times dearer than asking whether there is something to take out.
create or replace temp macro personal_kinds(t) as list_filter([
    case when regexp_matches(t, {literal(_AT)}) and len(list_filter(
        regexp_extract_all(t, {literal(_WHOLE_EMAIL)}), lambda c: is_email(c))) > 0 then 'email' end,
    case when regexp_matches(t, {_any(_CARDS)}) and len(list_filter(
        {_all_of(_CARDS)}, lambda c: is_card(digits(c)))) > 0 then 'card' end,
    case when regexp_matches(t, {_any(*_PHONES)}) and len(list_filter(
        list_transform({_all_of(*_PHONES)}, lambda c: regexp_replace(c, {literal(f"^{_PLUS}")}, '+')),
        lambda c: is_phone(c, digits(c)))) > 0 then 'phone' end,
    case when regexp_matches(t, {_any(_IBANS)}) and len(list_filter(
        {_all_of(_IBANS)}, lambda c:
        is_iban(upper(regexp_replace(c, '[ -]', '', 'g')), regexp_matches(c, '[ -]')))) > 0 then 'iban' end
], lambda kind: kind is not null);
"""


def install(con: duckdb.DuckDBPyConnection) -> None:
    """Make the macros `may_identify(text)` (a shape is there) and `personal_kinds(text)` (the list of KINDS in it)."""
    con.execute(_MACROS)

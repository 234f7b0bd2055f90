"""Texts that tell of a person, looked for wherever they stand: many at once, as a word of their own."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from urllib.parse import quote

REPLACED_BY = b"(erased)"
CHUNK_BYTES = 4 << 20
_WORD = rb"[A-Za-z0-9_@]"


class Values:
    """Texts that tell of a person wherever they stand: long enough, and no plain number, to mean nothing else.

    A shorter one is only known in a field that says whose a record is.
    """

    def __init__(self, values: Iterable[str]) -> None:
        known = set(values)
        self.texts = tuple(sorted(value for value in known if is_telling(value)))
        # Whether there are others, which cannot be looked for as texts.
        self.short = len(self.texts) < len(known)
        self._spelled = sorted({spelling for value in self.texts for spelling in _spellings(value)}, key=len, reverse=True)

    def named_in(self, texts: Sequence[str]) -> list[int]:
        """The places of texts that may name one: a value is in there, maybe as part of a longer word."""
        import polars

        if not self._spelled or not texts:
            return []
        found = polars.Series(texts).str.contains_any([s.decode("utf-8", "surrogateescape") for s in self._spelled])
        return found.arg_true().to_list()

    def may_be_in(self, blocks: Iterable[bytes], *, escaped: bool = True) -> bool:
        """Whether one may be in a stream of bytes, however it is cut into blocks; `escaped`: also by JSON's escapes."""
        import polars

        if not self._spelled:
            return False
        patterns = [spelling.decode("latin-1") for spelling in self._spelled]
        # A value that is spelled with escapes is found by them.
        patterns += [r"\u", r"\/"] if escaped else []
        rest, longest = "", max(map(len, patterns))
        for block in blocks:
            text = rest + block.decode("latin-1")
            if polars.Series([text]).str.contains_any(patterns)[0]:
                return True
            rest = text[-longest:]
        return False

    def masked(self, text: bytes, by: Callable[[bytes], bytes] = lambda value: REPLACED_BY) -> tuple[bytes, int]:
        """The text with each value that stands there as a word of its own replaced; and how many were."""
        count = 0
        for spelling in self._spelled:
            if spelling in text:
                found = re.compile(rb"(?<!" + _WORD + rb")" + re.escape(spelling) + rb"(?!" + _WORD + rb")")
                text, times = found.subn(lambda match: by(match[0]), text)
                count += times
        return text, count

    def masked_lines(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes, int]]:
        """Each numbered line as `masked` gives it. Few lines name somebody: all are looked through at once for those."""
        import polars

        patterns = [spelling.decode("latin-1") for spelling in self._spelled]
        for chunk in _chunks(lines):
            texts = polars.Series([line.decode("latin-1") for _, line in chunk], dtype=polars.String)
            naming = texts.str.contains_any(patterns).to_list() if patterns else [False] * len(chunk)
            for (number, line), named in zip(chunk, naming, strict=True):
                yield number, *(self.masked(line) if named else (line, 0))


def _chunks(lines: Iterable[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """Of about CHUNK_BYTES."""
    chunk: list[tuple[int, bytes]] = []
    size = 0
    for number, line in lines:
        chunk.append((number, line))
        size += len(line)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def is_telling(value: str) -> bool:
    """Whether a text can be looked for anywhere: six characters, or nine where all are digits."""
    return len(value) >= 6 and not (len(value) < 9 and value.isdigit())


def _spellings(value: str) -> set[bytes]:
    in_json = json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]
    in_address = quote(value, safe="", errors="surrogatepass")
    spelled = value, *in_json, value.replace('"', '""'), in_address
    return {text.encode("utf-8", "surrogatepass") for text in spelled}

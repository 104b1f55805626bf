"""Flowed text whose soft line breaks stand inside words (format=flowed with DelSp=yes), read as its reader sees it.

Invariant: an edit of the joined text becomes the same edit of the source; breaks outside of it stay. RFC 3676.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass, field

_LINE = re.compile(r"(>*+)( ?)([^\n]*+)(\n|\Z)")
_SIGNATURE = "-- "


@dataclass(slots=True)
class JoinedText:
    """The source without its soft breaks; a run of it that starts at `_joined_at` starts at `_source_at` there."""

    text: str = ""
    _joined_at: list[int] = field(default_factory=list)
    _source_at: list[int] = field(default_factory=list)

    def source_range(self, start: int, end: int) -> tuple[int, int]:
        """Where the joined text's characters from `start` to `end` stand; at least one."""
        return self._source_index(start), self._source_index(end - 1) + 1

    def _source_index(self, index: int) -> int:
        run = bisect_right(self._joined_at, index) - 1
        return self._source_at[run] + index - self._joined_at[run]


def join_lines(source: str) -> JoinedText:
    """Takes out each soft break with its space, the next line's quote marks and its stuffed space."""
    joined = JoinedText()
    pieces: list[str] = []
    length = run_start = soft_break_at = 0
    soft_depth = -1  # quote depth of the line before, if it ends in a soft break
    for line in _LINE.finditer(source):
        depth, content = len(line[1]), line[3].removesuffix("\r")
        if soft_depth == depth and content != _SIGNATURE:
            joined._joined_at.append(length)
            joined._source_at.append(run_start)
            pieces.append(source[run_start:soft_break_at])
            length += soft_break_at - run_start
            run_start = line.start(3)
        is_soft = content.endswith(" ") and content != _SIGNATURE
        soft_depth = depth if is_soft else -1
        soft_break_at = line.start(3) + len(content) - 1
    joined._joined_at.append(length)
    joined._source_at.append(run_start)
    joined.text = "".join([*pieces, source[run_start:]])
    return joined

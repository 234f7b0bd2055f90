"""Classes of input: what is known of a run of a step when it begins, in steps of about three times the size.

A class is named by its upper end, so that it can be told and looked up without a table.
"""

from bisect import bisect_left

_KB, _UNITS = 1_000, ("kB", "MB", "GB", "TB")
_NAMES = {
    number * _KB * 1000**power: f"up to {number} {unit}"
    for power, unit in enumerate(_UNITS)
    for number in (1, 3, 10, 30, 100, 300)
    if (power, number) >= (0, 100)
}
_ENDS = sorted(_NAMES)
_OVER = f"over {_NAMES[_ENDS[-1]].removeprefix('up to ')}"
CLASSES = (*(_NAMES[end] for end in _ENDS), _OVER)


def input_class(size: int | None) -> str | None:
    """The class of an input of so many bytes, up to its end and that included; None where the size is not known."""
    return None if size is None else CLASSES[bisect_left(_ENDS, size)]

"""Numbers with what they count, as a person says them."""


def count_of(number: float, one: str, many: str = "") -> str:
    """ "1 row", "2 rows", "0.5 points"; `many` is for what takes more than an s: "row is", "rows are"."""
    shown = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{shown} {one if number == 1 else many or f'{one}s'}"

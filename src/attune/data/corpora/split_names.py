"""What people call the three splits, in names of folders and in a column `split`."""

# The first name is ours, and what a folder is looked up by first. "eval" is none: in some corpora it is the test.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


def find_split(name: str) -> str | None:
    """The split of that name, whatever its case; None for what is none."""
    plain = name.strip().lower()
    return next((split for split, names in SPLIT_NAMES.items() if plain in names), None)


def describe_names() -> str:
    """All names, for a message."""
    told = (f"{names[0]} (or {', '.join(names[1:])})" if names[1:] else names[0] for names in SPLIT_NAMES.values())
    return ", ".join(told)

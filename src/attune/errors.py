"""What a user did that cannot work, in one message."""


class InputError(Exception):
    """Bad input: what is wrong, what was got, what is accepted, how to mend it. Shown without a traceback."""


class ToldError(InputError):
    """One that another process of the run has met, and tells the user."""

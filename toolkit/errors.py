"""What commands tell without a traceback."""


class InputError(ValueError):
    """Options or files that cannot be worked with; the message says what was wrong and what to do."""

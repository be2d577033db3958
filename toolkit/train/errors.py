"""What `train` tells without a traceback."""


class InputError(ValueError):
    """Options or files that cannot be trained with; the message says what to change."""

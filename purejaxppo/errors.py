"""The one exception that means "the user asked for something impossible"."""


class ConfigError(ValueError):
    """A user's mistake, told in one sentence that names the field, the value and what is allowed.

    The command line prints the sentence and exits with code 2; in a notebook it is an ordinary `ValueError`.
    """

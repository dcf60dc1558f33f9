"""What can go wrong, in three kinds: the user's mistake, the weather, and somebody who wants to stop."""


class ConfigError(ValueError):
    """A user's mistake, told in one sentence that names the field, the value and what is allowed.

    The command line prints the sentence and exits with code 2; in a notebook it is an ordinary `ValueError`.
    """


class RunError(RuntimeError):
    """Bad weather while a sweep runs (a full disk, no memory), told in a sentence that says what is safe.

    The command line prints it and exits with code 1.
    """


class Stopped(KeyboardInterrupt):
    """A sweep was asked to stop and has saved everything; says how to continue. Exit code 130 at the command line."""

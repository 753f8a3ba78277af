"""The one exception a user is meant to see: a mistake, named in one line."""


class FedNegError(Exception):
    """A user's mistake or a missing resource; its text names the value and the rule.

    The command line prints the text as one line and exits with code 2; a traceback is
    kept for defects of the program itself.
    """

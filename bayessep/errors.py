"""Errors that a user can act on."""


class UserError(Exception):
    """Error for input or settings that cannot be used.

    The message is one sentence that names the file or setting and says what to do about it. The command line prints
    it on standard error and exits with code 2; from Python it is an ordinary exception.
    """

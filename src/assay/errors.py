"""The errors that a user can cause. Each is one line: what is wrong, where, and what to do."""

import re

EXIT_USER = 2
"""Exit code of a command stopped by its input: config, data, model name."""

EXIT_EXPECTATIONS = 3
"""Exit code of a run stopped because the data does not meet its expectations."""

DISK_FULL = "disk is full"
"""In what SQLite, and whoever uses it, says of one."""


class AssayError(Exception):
    """Something that the user can mend; shown as one line, without a traceback."""

    exit_code = EXIT_USER


class ConfigError(AssayError):
    """A use case file that is missing, unreadable or wrong."""


class DataError(AssayError):
    """A source that cannot be read, or holds nothing to train on."""


class ExpectationsFailed(AssayError):
    """The data was read, and an expectation that stops the run does not hold."""

    exit_code = EXIT_EXPECTATIONS


class HomeError(AssayError):
    """A state folder that cannot be written."""


class BundleError(AssayError):
    """A bundle that is incomplete, altered, or of an unknown format."""


class RegistryError(AssayError):
    """A model, version or alias that the registry does not have, or a registry that does not answer."""


class LedgerError(AssayError):
    """A ledger that cannot be read, written or believed, or a promotion or rollback that it does not allow."""


def without_password(uri: str) -> str:
    """An address as it may be told: with no account in it."""
    return re.sub("//[^/@]*@", "//", uri)

"""ZenML's server, or its store on this machine: whoever needs it gets it, or one line that says why not."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from assay.console import warn
from assay.errors import DISK_FULL, AssayError, without_password
from stacks.errors import StackError, first_line

if TYPE_CHECKING:
    from zenml.client import Client


@contextmanager
def connected() -> Iterator["Client"]:
    """ZenML's client, with its faults as one line and nothing else on the screen."""
    try:
        from zenml.client import Client

        from stacks.quiet import quiet

        quiet("zenml", "botocore")
        yield Client()
    except AssayError:
        raise
    except Exception as error:
        raise fault(error) from None


def greet() -> None:
    """Make sure that ZenML answers before a run is begun, and say if it is of another version.

    Raises:
        StackError: it does not answer, or not to us.
    """
    from zenml.client import Client

    try:
        there = str(Client().zen_store.get_store_info().version)
    except Exception as error:
        raise fault(error) from None
    if there != (here := version("zenml")):
        warn("zenml", f"{_url()} is {there}, here it is {here}: what fails now may fail for that; use one version")


def fault(error: Exception) -> StackError:
    """What ZenML's client raised, in a line with what to do."""
    from zenml.exceptions import CredentialsNotValid

    place, root = f"ZenML at {_url()}", _root(error)
    if isinstance(error, CredentialsNotValid):
        remedy = f"renew ZENML_STORE_API_KEY, or `zenml login {_url()}`"
        return StackError(f"{place} refuses the credentials, or they have expired: {remedy}")
    if DISK_FULL in f"{error} {root}":
        return StackError(f"{place} cannot be written, the disk is full: make room and run it again")
    if isinstance(root, OSError):
        return StackError(f"{place} does not answer: {first_line(root)}; start it, or mend ZENML_STORE_URL")
    return StackError(f"{place}: {type(error).__name__}: {first_line(error)}; see `assay stack doctor`")


def cause(error: Exception) -> str:
    """What was first, of an error that hides it."""
    return first_line(_root(error))


def _root(error: BaseException) -> BaseException:
    while following := error.__cause__ or error.__context__:
        error = following
    return error


def _url() -> str:
    from zenml.config.global_config import GlobalConfiguration

    return without_password(GlobalConfiguration().store_configuration.url)

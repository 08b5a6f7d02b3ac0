"""What the commands have in common: how help, options and results look."""

import json
import math
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import click
import yaml

from assay.config import NOT_YAML
from assay.errors import ConfigError

Command = Callable[..., Any]


class Examples(click.Command):
    """A command whose help ends with examples, printed as they stand."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples without re-wrapping them."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.strip().splitlines():
                    formatter.write(f"  {line.strip()}\n")


class Group(Examples, click.Group):
    """A group of commands with examples."""

    command_class = Examples


class WithDefault(Group):
    """A group whose first word may be the argument of its command `judge` instead of a command's name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """`gate demo@3` is `gate judge demo@3`."""
        known = bool(args) and (args[0] in self.commands or args[0].startswith("-"))
        return super().resolve_command(ctx, args if known else ["judge", *args])


class Root(Group):
    """`assay`: with the commands of other rooms, which are imported when they are asked for."""

    elsewhere: Mapping[str, str] = {"schedule": "stacks.commands", "stack": "stacks.commands"}
    """Name of a command to its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, for the help."""
        return sorted([*super().list_commands(ctx), *self.elsewhere])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of ours, or of another room; none where that room is not there, as in the service's image."""
        if cmd_name not in self.elsewhere:
            return super().get_command(ctx, cmd_name)
        try:
            found: click.Command = getattr(import_module(self.elsewhere[cmd_name]), cmd_name)
        except ModuleNotFoundError:
            return None
        return found


class FiniteRange(click.FloatRange):
    """A range in which NaN and infinity are not: of NaN, click's own says that it is in any."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A number, or click's own error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number here.", param, ctx)
        return number


def json_option(command: Command) -> Command:
    """`--json`: one object on standard output instead of text."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(command)


def show(result: str | Mapping[str, Any], as_json: bool) -> None:
    """Print a result on standard output."""
    click.echo(json.dumps(result, ensure_ascii=False, default=str) if as_json else result)


def overrides(settings: tuple[str, ...]) -> dict[str, Any]:
    """What `--set KEY=VALUE`, given several times, replaces in a use case.

    Raises:
        ConfigError: it has another form, or the value is not YAML.
    """
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise ConfigError(f"--set {setting}: give KEY=VALUE, such as recipe.epochs=2")
        try:
            pairs[key] = yaml.safe_load(value)
        except NOT_YAML:
            raise ConfigError(f"--set {setting}: the value is not YAML") from None
    return pairs

"""Make ZenML's server hold what a stack's YAML says: secrets, flavours, components, the stack. Twice is like once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from assay.errors import AssayError
from stacks.errors import StackError, first_line
from stacks.files import Component, StackFile, load, names
from stacks.server import connected

if TYPE_CHECKING:
    from zenml.client import Client
    from zenml.models import ComponentResponse, StackResponse

T = TypeVar("T")


@dataclass(frozen=True)
class Change:
    """Something that is not as the YAML says, and what makes it so."""

    what: str
    """Such as `component artifact_store kubeflow: path`; never a value of a secret."""
    make: Callable[[], object]


@dataclass(frozen=True)
class Known:
    """A stack that there is a YAML for."""

    name: str
    applied: bool
    active: bool


def apply(name: str, check: bool = False) -> list[str]:
    """Apply `stacks/NAME.yaml` (or the YAML at a path) and say what changed; with `check`, what would.

    Raises:
        StackError: the YAML is not sound, the server does not answer, or refuses.
    """
    stack = load(name)
    told = []
    with connected() as client:
        for changes in (_secrets, _flavors, _components, _stack):
            for change in changes(client, stack):
                told.append(change.what)
                if not check:
                    _make(change)
    return told


def known() -> list[Known]:
    """The stacks of this folder, and which of them the server has."""
    with connected() as client:
        present = {stack.name for stack in client.list_stacks(size=1000).items}
        active = client.active_stack_model.name
        return [Known(name, name in present, name == active) for name in names()]


def _make(change: Change) -> None:
    try:
        change.make()
    except AssayError:
        raise
    except Exception as error:
        raise StackError(f"{change.what}: refused: {type(error).__name__}: {first_line(error)}") from None


def _secrets(client: "Client", stack: StackFile) -> Iterator[Change]:
    for name, values in stack.secrets.items():
        present = _present(partial(client.get_secret, name, allow_partial_name_match=False))
        if present is None:
            yield Change(f"secret {name}: new", partial(client.create_secret, name, dict(values)))
        elif changed := differences(present.secret_values, values):
            update = partial(
                client.update_secret,
                name,
                add_or_update_values={key: values[key] for key in changed if key in values},
                remove_values=[key for key in changed if key not in values],
            )
            yield Change(f"secret {name}: {', '.join(changed)}", update)


def _flavors(client: "Client", stack: StackFile) -> Iterator[Change]:
    from zenml.enums import StackComponentType
    from zenml.stack.flavor import validate_flavor_source

    kind = StackComponentType.ORCHESTRATOR
    for source in stack.flavors:
        _, flavor = validate_flavor_source(source, kind)
        present = {found.name: found for found in client.list_flavors(name=flavor.name, type=kind).items}
        if flavor.name not in present:
            yield Change(f"flavor {flavor.name}: new", partial(client.create_flavor, source, kind))
        elif changed := _outdated(present[flavor.name], flavor):
            from zenml.models import FlavorUpdate

            update = FlavorUpdate(source=changed.source, config_schema=changed.config_schema)
            there = present[flavor.name].id
            yield Change(f"flavor {flavor.name}: settings", partial(client.zen_store.update_flavor, there, update))


def _outdated(present: Any, flavor: Any) -> Any | None:
    """What the server should hold of a flavour, if that differs from what it holds."""
    wanted = flavor.to_model(integration="custom", is_custom=True)
    same = present.source == wanted.source and present.config_schema == wanted.config_schema
    return None if same else wanted


def _components(client: "Client", stack: StackFile) -> Iterator[Change]:
    from zenml.enums import StackComponentType

    for kind, wanted in stack.components.items():
        component_type = StackComponentType(kind)
        look = partial(client.get_stack_component, component_type, stack.name, allow_name_prefix_match=False)
        present = _present(look)
        yield from _component(client, component_type, stack.name, wanted, present)


def _component(
    client: "Client", kind: Any, name: str, wanted: Component, present: "ComponentResponse | None"
) -> Iterator[Change]:
    what, configuration = f"component {kind.value} {name}", dict(wanted.configuration)
    if present is None:
        yield Change(f"{what}: new", lambda: client.create_stack_component(name, wanted.flavor, kind, configuration))
        return
    if present.flavor_name != wanted.flavor:
        raise StackError(
            f"{what}: is of the flavor {present.flavor_name}, and cannot become one of {wanted.flavor}; "
            f"rename it: zenml {kind.value.replace('_', '-')} rename {name} {name}-old"
        )
    if changed := differences(present.configuration, configuration):
        yield Change(
            f"{what}: {', '.join(changed)}",
            lambda: client.update_stack_component(
                name, kind, configuration={key: configuration.get(key) for key in changed}
            ),
        )


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ; a value from the environment is a string, and stored as what it stands for."""
    keys = sorted({*stored, *wanted})
    return [key for key in keys if not _same(stored.get(key), wanted.get(key))]


def _same(stored: Any, wanted: Any) -> bool:
    if isinstance(stored, bool) and isinstance(wanted, str):
        return str(stored).lower() == wanted.lower()
    return bool(stored == wanted) or (isinstance(stored, (int, float)) and str(stored) == str(wanted))


def _stack(client: "Client", stack: StackFile) -> Iterator[Change]:
    from zenml.enums import StackComponentType

    components = {StackComponentType(kind): stack.name for kind in stack.components}
    present = _present(lambda: client.get_stack(stack.name, allow_name_prefix_match=False))
    if present is None:
        yield Change(
            f"stack {stack.name}: new",
            lambda: client.create_stack(stack.name, components, secrets=list(stack.secrets)),
        )
        if stack.environment:
            yield Change(
                f"stack {stack.name}: environment",
                lambda: client.update_stack(stack.name, environment=dict(stack.environment)),
            )
    else:
        yield from _parts(client, stack, present, components)


def _parts(
    client: "Client", stack: StackFile, present: "StackResponse", components: Mapping[Any, str]
) -> Iterator[Change]:
    there = {kind: found[0].name for kind, found in present.components.items()}
    if changed := [kind.value for kind in components if there.get(kind) != components[kind]]:
        updates = dict(components)
        yield Change(
            f"stack {stack.name}: {', '.join(sorted(changed))}",
            lambda: client.update_stack(stack.name, component_updates=updates),
        )
    if differing := differences(present.environment, stack.environment):
        values = {key: stack.environment.get(key) for key in differing}
        yield Change(
            f"stack {stack.name}: environment {', '.join(differing)}",
            lambda: client.update_stack(stack.name, environment=values),
        )
    attached = {client.get_secret(identity).name for identity in present.secrets}
    if missing := [name for name in stack.secrets if name not in attached]:
        yield Change(
            f"stack {stack.name}: secrets {', '.join(missing)}",
            lambda: client.update_stack(stack.name, add_secrets=missing),
        )


def _present(look: Callable[[], T]) -> T | None:
    try:
        return look()
    except KeyError:
        return None

"""What the doctor looks for in a namespace."""

from types import SimpleNamespace
from typing import Any

import pytest
import yaml

pytest.importorskip("zenml", reason="needs the extra pipelines")

from stacks.doctor import claims_of
from stacks.namespaces import missing


def test_claims_are_those_of_all_steps_and_of_each() -> None:
    document = yaml.safe_load("""
    settings: {orchestrator: {volumes: [{claim: a, path: /a}]}}
    steps:
      train: {settings: {orchestrator: {volumes: [{claim: b, path: /b}, {claim: a, path: /c}]}}}
      gate: {settings: {orchestrator: {cpu: 1, volumes: null}}}
      export:
    """)
    assert claims_of(document) == {"a", "b"}
    assert claims_of({}) == frozenset()


class Core:
    """Of a namespace with the account and the claim `there`."""

    def _list(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(items=[SimpleNamespace(metadata=SimpleNamespace(name="there"))])

    list_namespaced_service_account = list_namespaced_persistent_volume_claim = _list


def test_what_is_missing_is_named() -> None:
    core: Any = Core()
    assert missing(core, "n", {"there"}, set()) == []
    assert missing(core, "n", {"there", "nobody"}, {"nowhere"}) == ["service account nobody", "claim nowhere"]

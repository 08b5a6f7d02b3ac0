"""Who types the commands of a team's stack, in tests."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE_S = 1800


@dataclass(frozen=True)
class Person:
    """With a state of their own, in a folder of their own that is no checkout."""

    home: Path
    environment: Mapping[str, str]

    def command(self, *words: str, module: str = "assay") -> list[str]:
        """What starts `assay`, `zenml`, or a program that is given whole."""
        start = {"assay": "from assay.cli import main; main()", "zenml": "from zenml.cli.cli import cli; cli()"}
        prepare = "from assay.home import use_local_environment as u; u(); "
        return [sys.executable, "-c", prepare + start.get(module, module), *words]

    def run(self, *words: str, module: str = "assay", **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*words, module=module), cwd=self.home, env={**self.environment, **more},
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    def good(self, *words: str, module: str = "assay", **more: str) -> str:
        """What is said on standard output by what must succeed."""
        done = self.run(*words, module=module, **more)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def refused(self, config: Path, *words: str, **more: str) -> str:
        """The one line that a person sees of a training that fails."""
        done = self.run("train", str(config), *words, **more)
        told = [line for line in done.stderr.splitlines() if line.startswith("assay: ")]
        assert (done.returncode, len(told), done.stdout) == (2, 1, ""), f"{done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return told[0]


def person(home: Path, **environment: str) -> Person:
    """Somebody new: nothing of this process's state is theirs."""
    foreign = ("ZENML_", "AWS_", "MLFLOW_", "ASSAY_", "KUBE")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    own = {"ASSAY_HOME": str(home / ".assay"), "ZENML_CUSTOM_SOURCE_ROOT": str(ROOT), "HOME": str(home)}
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return Person(home, inherited | own | paths | environment)

"""The steps' image, as far as its recipe can be read."""

import re
from pathlib import Path

from assay.home import QUIET

ROOT = Path(__file__).parents[3]
RECIPE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_a_step_is_as_quiet_as_a_run_on_this_machine() -> None:
    given = dict(re.findall(r"^(?:ENV|   ) ([A-Z_]+)=(\S+)", RECIPE, re.MULTILINE))
    assert {name: given.get(name) for name in QUIET} == dict(QUIET)


def test_all_that_is_copied_is_there_and_nothing_else() -> None:
    for source in re.findall(r"^COPY (?!--from)(\S+) ", RECIPE, re.MULTILINE):
        assert (ROOT / source).exists(), source
    assert not re.findall(r"^COPY \. ", RECIPE, re.MULTILINE)


def test_it_is_nobody_s_root_and_takes_what_is_locked_alone() -> None:
    users = re.findall(r"^USER (\S+)", RECIPE, re.MULTILINE)
    assert users == ["10001:10001"]
    installs = re.findall(r"pip install [^;\\]+", RECIPE)
    assert all("--no-deps" in line for line in installs)
    assert all("--require-hashes" in line for line in installs if "--index-url" not in line)
    wheels_alone = [line for line in installs if "--only-binary :all:" in line]
    (source,) = (line for line in installs if line not in wheels_alone)
    assert "--no-build-isolation" in source
    assert "/^kfp-server-api==/" in RECIPE, "and of one package alone"


def test_the_steps_lock_is_the_lock_and_s3() -> None:
    """Whoever locks anew locks both."""

    def locked(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9._-]+==\S+", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))

    only_here = {pin.partition("==")[0] for pin in locked("stacks/requirements.txt") - locked("requirements.txt")}
    s3 = {"aiobotocore", "aioitertools", "boto3", "botocore", "jmespath", "s3fs", "s3transfer"}
    assert only_here <= s3, "stacks/requirements.txt is of another `make lock`"

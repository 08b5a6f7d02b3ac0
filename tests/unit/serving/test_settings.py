from pathlib import Path

import pytest

from serving.settings import Settings, SettingsError, cpus, options

README = Path(__file__).parents[3] / "serving" / "README.md"


def test_nothing_set_is_the_defaults() -> None:
    assert Settings.from_environment({"PATH": "/bin", "ASSAY_HOME": "x"}) == Settings()


def test_every_kind_of_value_is_read() -> None:
    given = {"ASSAY_SERVE_BUNDLE": "b", "ASSAY_SERVE_QUEUE": " 3 ", "ASSAY_SERVE_TIMEOUT_S": "0.5"}
    settings = Settings.from_environment({**given, "ASSAY_SERVE_OBSERVE_IMAGES": "TRUE"})
    assert settings == Settings(bundle="b", queue=3, timeout_s=0.5, observe_images=True)


def test_an_empty_variable_is_not_set() -> None:
    assert Settings.from_environment({"ASSAY_SERVE_QUEUE": " "}).queue == Settings().queue


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("QUEUE", "many", "must be a whole number, given: 'many'"),
        ("QUEUE", "1.5", "must be a whole number"),
        ("QUEUE", "-1", "must be from 0 to 100,000, given: -1"),
        ("MAX_HELD_BYTES", "0", "must be 1 or more"),
        ("TIMEOUT_S", "nan", "must be from 0.001 to 300.0, given: nan"),
        ("TIMEOUT_S", "inf", "must be from"),
        ("OBSERVE_RATE", "1.1", "must be from 0 to 1"),
        ("OBSERVE_IMAGES", "maybe", "must be true or false"),
        ("DIGEST", "abc", "must be"),
        ("MODEL", "demo", "must be"),
        ("MAX_BODY", "1", "unknown; known are BUNDLE, DIGEST"),
        ("MAX_BODY_BYTES", "300000000", "ASSAY_SERVE_MAX_HELD_BYTES: is less"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(name: str, text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({f"ASSAY_SERVE_{name}": text})
    assert f"ASSAY_SERVE_{name}" in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_model_are_too_much() -> None:
    with pytest.raises(SettingsError, match="set one of them"):
        Settings.from_environment({"ASSAY_SERVE_BUNDLE": "b", "ASSAY_SERVE_MODEL": "demo@champion"})


@pytest.mark.parametrize("name", ["SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT", "PORT_3000_TCP_ADDR"])
def test_what_kubernetes_says_of_a_service_is_not_ours(name: str) -> None:
    assert Settings.from_environment({f"ASSAY_SERVE_{name}": "tcp://10.0.0.1:3000"}) == Settings()


@pytest.mark.parametrize(
    ("quota", "expected"), [("100000 100000", 1), ("1 100000", 1), ("99999999 1", 0), ("max 9", 0)]
)
def test_a_quota_of_the_container_counts(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert cpus(tmp_path / "cpu.max") == (expected or cpus(tmp_path / "nowhere"))


def test_the_readme_tells_every_setting() -> None:
    rows = [f"| `{name}` | {_told(default)} | {meaning} |" for name, default, meaning in options()]
    told = [line for line in README.read_text().splitlines() if line.startswith("| `ASSAY_SERVE_")]
    assert told == rows


def _told(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:,}" if isinstance(default, int | float) else f"{default}"

import pytest
from PIL import Image

from assay.preprocess import Geometry, inspect
from serving import headers

from badinput import refused, unusual
from pictures import encoded, picture


@pytest.mark.parametrize("name", unusual())
def test_what_is_accepted_is_decoded_as_what_it_is(name: str) -> None:
    data = unusual()[name]
    assert headers.accepted(data)
    assert inspect(data, Geometry(4)).format in ("JPEG", "PNG", "WEBP", "BMP")
    assert headers.frames(data) == 1
    assert headers.laborious(data) is None


def test_the_pictures_of_an_animation_are_counted() -> None:
    assert headers.frames(refused()["animated png"][0]) == headers.frames(refused()["animated webp"][0]) == 3


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "BMP"])
def test_the_size_is_told(format_name: str) -> None:
    assert headers.cost(encoded(picture(1, 30, 20), format_name), 4).pixels == 600


def test_what_programs_write_is_not_laborious() -> None:
    photo = Image.effect_noise((600, 400), 80).convert("RGB")
    written = [
        encoded(photo, progressive=True, quality=98),
        encoded(photo, comment=b"x" * 60_000, exif=Image.Exif(), icc_profile=bytes(200_000)),
        encoded(photo, "PNG"),
    ]
    assert [headers.laborious(data) for data in written] == [None] * 3


@pytest.mark.parametrize("name", ["jpeg of many scans", "jpeg of many exif blocks", "png of many profiles"])
def test_what_is_laborious_never_reaches_a_decoder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving import intake
    from serving.memory import Room
    from serving.problems import Problem
    from serving.settings import Settings

    monkeypatch.setattr(intake, "inspect", lambda *_: pytest.fail("decoded"))
    with pytest.raises(Problem, match="in one file; save it anew"):
        intake.read(refused()[name][0], Geometry(4), Settings(), Room(10**9), lambda: None)

"""What is said of data that a trained encoder cannot take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infomax_cli.core.inputs import InputSpec
from infomax_cli.errors import UsageError

COLOUR = InputSpec(3, (32, 32), ("height", "width"), None)
GREY = replace(COLOUR, channels=1)
SOUND = InputSpec(1, (3200,), ("time",), 16000)
OPTIONS = ("grey", "size", "rate", "path")


@pytest.mark.parametrize(
    ("encoder", "data", "hint"),
    [
        (GREY, COLOUR, "data.grey=true"),
        (COLOUR, GREY, "data.grey=false"),
        (COLOUR, replace(COLOUR, grid=(96, 96)), "data.size=32"),
        (SOUND, replace(SOUND, rate=8000), "data.rate=16000"),
        (replace(COLOUR, channels=4), COLOUR, "choose data of the same kind: the encoder is trained"),
        (SOUND, GREY, "choose data of the same kind: the encoder is trained"),
    ],
)
def test_the_hint_is_an_option_that_the_data_has(encoder: InputSpec, data: InputSpec, hint: str) -> None:
    with pytest.raises(UsageError, match=r"mine holds .*, but the encoder takes ") as caught:
        encoder.check_fits(data, "mine", OPTIONS)
    assert caught.value.hint == hint
    with pytest.raises(UsageError) as caught:
        encoder.check_fits(data, "mine", ("path",))
    assert caught.value.hint == "choose data of the same kind: the encoder is trained"


def test_data_of_the_same_kind_fits_and_sound_may_be_of_any_length() -> None:
    COLOUR.check_fits(COLOUR, "mine", ())
    SOUND.check_fits(replace(SOUND, grid=(99,)), "mine", ())

"""Options of the data that make no sense are named."""

from __future__ import annotations

import math

import pytest

from semillie_core.data import DataConfig, SourceConfig, UnpairedConfig
from semillie_core.data.config import StrongViewConfig


@pytest.mark.parametrize(
    "change",
    [
        {"white_balance_jitter": 1.5},
        {"white_balance_jitter": -0.1},
        {"light_colour_jitter": -1.0},
        {"saturation_jitter": -0.5},
        {"exposure_jitter": math.inf},
        {"exposure_jitter": math.nan},
        {"camera": 1.1},
        {"exposure_ev": (-1.0, -2.0)},
        {"exposure_ev": (-math.inf, -2.0)},
        {"exposure_ev": (-1.0,)},
    ],
)
def test_data_options_out_of_range_are_named(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"data.{name} must be"):
        DataConfig(**change)


@pytest.mark.parametrize(("given", "missing"), [("val_low", "val_high"), ("val_high", "val_low")])
def test_one_folder_of_validation_photos_needs_the_other(given, missing):
    with pytest.raises(ValueError, match=f"data.{given} needs data.{missing}"):
        DataConfig(**{given: "photos"})


@pytest.mark.parametrize(
    "change", [{"exposure_ev": -1.0}, {"white_balance": 2.0}, {"noise": -0.1}, {"blur": 1.1}]
)
def test_options_of_the_strong_view_out_of_range_are_named(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"strong.{name} must be"):
        StrongViewConfig(**change)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_weights_of_folders_out_of_range_are_named(weight):
    with pytest.raises(ValueError, match="the weight of dark must be above 0"):
        SourceConfig("dark", "bright", weight)
    with pytest.raises(ValueError, match="the weight of night must be above 0"):
        UnpairedConfig("night", weight)

"""A few losses of power for each durability; the long version is power_loss.py."""

from pathlib import Path

import pytest

from tests.faults.disks import needs_disks
from tests.faults.postgres import Postgres
from tests.faults.power_loss import VARIANTS, play

SEED = 1


@needs_disks
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_loss_of_power_costs_what_the_durability_says(postgres: Postgres, tmp_path: Path, variant: str) -> None:
    losses = play(postgres, tmp_path / "r", variant, SEED, cuts=2)
    assert losses.holds(variant), losses
    assert losses.answered > 100
    if variant == "process":  # else nothing was cut, and the other variants prove nothing
        assert losses.missing_before > 0

import pytest
import torch
from messages import refused

from cxrignite.functional import energy_inside, pointing_game

MAPS = torch.tensor(
    [
        [[0.0, 1.0, 0.0], [2.0, 4.0, 1.0]],  # the maximum inside
        [[9.0, 0.0, 0.0], [1.0, 0.0, 0.0]],  # outside
        [[0.0, 3.0, 0.0], [3.0, 3.0, 0.0]],  # a tie, one of three outside
        [[0.0, 3.0, 0.0], [0.0, 3.0, 0.0]],  # a tie inside
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],  # empty
        [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]],  # the same everywhere
    ]
)
MASKS = torch.tensor([[[0, 1, 0], [0, 1, 0]]]).expand(6, 2, 3)


def test_energy_and_area_are_those_worked_out_by_hand():
    found = energy_inside(MAPS, MASKS)
    assert found.energy.tolist() == pytest.approx([5 / 8, 0, 6 / 9, 1, 0, 1 / 3])
    assert found.area.tolist() == pytest.approx([1 / 3] * 6)


def test_only_a_maximum_that_lies_inside_with_all_its_ties_is_a_hit():
    assert pointing_game(MAPS, MASKS).tolist() == [True, False, False, True, False, False]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_a_map_changes_nothing(scale):
    assert torch.equal(pointing_game(scale * MAPS, MASKS), pointing_game(MAPS, MASKS))
    torch.testing.assert_close(
        energy_inside(scale * MAPS, MASKS).energy, energy_inside(MAPS, MASKS).energy
    )


def test_a_mask_may_be_bool_bytes_or_a_share():
    expected = energy_inside(MAPS, MASKS).energy
    for masks in (MASKS.bool(), (255 * MASKS).to(torch.uint8), 0.5 * MASKS):
        assert torch.equal(energy_inside(MAPS, masks).energy, expected)


def test_random_maps_hit_and_hold_as_much_as_the_mask_is_large():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2000, 10, 10, generator=generator)
    masks = torch.zeros(2000, 10, 10)
    masks[:, 2:7, 1:5] = 1  # a fifth
    assert pointing_game(maps, masks).float().mean() == pytest.approx(0.2, abs=0.045)
    assert energy_inside(maps, masks).energy.mean() == pytest.approx(0.2, abs=0.005)


@pytest.mark.parametrize("measure", [energy_inside, pointing_game])
@pytest.mark.parametrize(
    ("maps", "masks", "facts"),
    [
        (MAPS, MASKS[:, :1], ["(N, H, W)", "(6, 2, 3)", "(6, 1, 3)"]),
        (MAPS[:, None], MASKS[:, None], ["(N, H, W)", "(6, 1, 2, 3)"]),
        (-MAPS, MASKS, ["0", "-1", "17"]),
        (MAPS * float("nan"), MASKS, ["0", "nan"]),
        (
            MAPS,
            torch.cat([MASKS[:4], 0 * MASKS[4:]]),
            ["2", "6", "4"],
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(measure, maps, masks, facts):
    with refused(ValueError, *facts):
        measure(maps, masks)

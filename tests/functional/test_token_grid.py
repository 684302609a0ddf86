import pytest
import torch

from cxrignite.functional.token_grid import feature_map


@pytest.mark.parametrize("num_before", [0, 1, 2, 5])
def test_tokens_are_a_grid_row_by_row_without_those_before_it(num_before):
    tokens = torch.arange(2 * (num_before + 24) * 3).reshape(2, num_before + 24, 3)
    found = feature_map(tokens, (64, 96))
    assert found.shape == (2, 3, 4, 6)
    for row, column in [(0, 0), (2, 5), (3, 1)]:
        place = num_before + 6 * row + column
        assert torch.equal(found[:, :, row, column], tokens[:, place])


def test_channels_in_the_last_place_are_moved_by_the_ratio_of_the_sides():
    output = torch.rand(2, 4, 6, 5)
    assert torch.equal(feature_map(output, (64, 96)), output.permute(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(2, 7, 7, 7), (2, 5, 4, 6), (1, 64, 3, 4)])
def test_channels_in_the_second_place_stay(shape):
    output = torch.rand(shape)
    size = (64, 64) if shape[1] == 7 else (63, 95)
    assert feature_map(output, size) is output


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 1, 1), (2, 1, 8), (2,), (2, 3, 4, 4, 4)])
def test_an_output_without_a_grid_has_no_map(shape):
    assert feature_map(torch.zeros(shape), (64, 64)) is None


def test_the_map_is_a_view_so_that_gradients_reach_the_tokens():
    tokens = torch.rand(1, 5, 3, requires_grad=True)
    feature_map(tokens, (32, 32)).sum().backward()
    assert tokens.grad[0, 0].eq(0).all()
    assert tokens.grad[0, 1:].eq(1).all()

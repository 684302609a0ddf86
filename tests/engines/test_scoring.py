import pytest
import torch
from ignite.engine import Events
from torch import nn

from cxrignite.data import View
from cxrignite.engines import BatchScorer, create_evaluator
from cxrignite.nn import LightCNN

IMAGES = torch.randint(0, 256, (10, 1, 32, 32), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LightCNN(width=4, stride=16).train()


def test_scores_are_those_of_an_evaluator_to_the_last_bit(model):
    evaluator = create_evaluator(model, device="cpu", batch_size=8)
    found = []
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED, lambda each: found.append(each.state.output)
    )
    evaluator.run([(part, torch.zeros(len(part))) for part in IMAGES.split(8)])
    scorer = BatchScorer(model, device="cpu", batch_size=8)
    # Other batches, other neighbours, another place in the batch.
    for start, end in ((0, 3), (3, 4), (4, 10)):
        scores, logits = scorer(IMAGES[start:end])
        assert torch.equal(scores, torch.cat([each[0] for each in found])[start:end])
        assert torch.equal(scores, torch.sigmoid(logits))
    assert not model.training


def test_every_forward_pass_has_one_shape():
    shapes = []

    class Looking(nn.Module):
        def forward(self, images):
            shapes.append(tuple(images.shape))
            return images.float().mean((1, 2, 3))

    scorer = BatchScorer(Looking(), device="cpu", batch_size=4)
    for part in IMAGES.split(3):
        scores, logits = scorer(part)
        assert scores.shape == logits.shape == (len(part),)
    assert shapes == [(4, 1, 32, 32)] * 4
    BatchScorer(Looking(), device="cpu")(IMAGES[:3])
    assert shapes[-1] == (3, 1, 32, 32)


def test_a_score_is_the_mean_over_the_image_and_its_views_in_any_batch(model):
    views = [View(shift=(0.1, 0.0)), View(gamma=0.8)]
    plain = BatchScorer(model, device="cpu", batch_size=8)
    scorer = BatchScorer(model, device="cpu", batch_size=8, views=views)
    scores, logits = scorer(IMAGES[:8])
    passes = [plain(each)[0] for each in (IMAGES[:8], *(view(IMAGES[:8]) for view in views))]
    torch.testing.assert_close(scores, torch.stack(passes).mean(dim=0))
    assert torch.equal(logits, plain(IMAGES[:8])[1])
    assert (scores - passes[0]).abs().max() > 1e-4
    parts = [scorer(IMAGES[start:end])[0] for start, end in ((0, 3), (3, 8))]
    assert torch.equal(torch.cat(parts), scores)


def test_views_are_scored_one_after_the_other():
    sizes = []

    class Looking(nn.Module):
        def forward(self, images):
            sizes.append(len(images))
            return torch.stack([images.float().mean((1, 2, 3))] * 3, dim=1)

    views = [View(gamma=0.5), View(gamma=2.0)]
    scores, _ = BatchScorer(Looking(), device="cpu", batch_size=4, exclusive=True, views=views)(
        IMAGES[:2]
    )
    assert sizes == [4, 4, 4]
    assert scores.shape == (2, 3)
    assert (scores.sum(dim=1) < 1).all()

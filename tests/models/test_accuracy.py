import pytest
import torch
from torch import nn

from decoct.models.accuracy import Accuracy, accuracy


class Brightest(nn.Module):
    """Predicts the brightest channel, in eval mode only."""

    def forward(self, pixels):
        assert not self.training and pixels.max() <= 1
        return pixels.mean(dim=(2, 3))


def test_accuracy_does_not_depend_on_the_batch():
    images = torch.randint(0, 256, (53, 3, 8, 8), dtype=torch.uint8)
    labels = torch.randint(0, 3, (53,))
    expected = sum(
        int(max(range(3), key=lambda channel: image[channel].float().mean()) == label)
        for image, label in zip(images, labels.tolist(), strict=True)
    )
    classifier = Brightest().train()
    dataset = torch.utils.data.TensorDataset(images, labels)
    for batch_size in (7, 53, 500):
        assert accuracy(classifier, dataset, batch_size=batch_size) == pytest.approx(expected / 53)
    assert classifier.training


def test_the_metric_works_on_its_own():
    metric = Accuracy(keep_in_memory=True)
    assert metric.compute(predictions=[0, 1, 2, 2], references=[0, 1, 1, 2]) == {"accuracy": 0.75}

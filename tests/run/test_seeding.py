"""Random generators that belong to one item."""

from __future__ import annotations

import torch

from decoct.run.seeding import seeded


def test_seeded_draws_depend_on_the_item_alone_and_leave_the_global_generator():
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    with seeded(0, "augment", 1, 2):
        first = torch.rand(2)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(123)
    with seeded(0, "augment", 1, 2):
        assert torch.equal(torch.rand(2), first)
    with seeded(0, "augment", 2, 1):
        assert not torch.equal(torch.rand(2), first)

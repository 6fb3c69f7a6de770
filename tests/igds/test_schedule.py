"""The default beta of an IPC."""

from __future__ import annotations

import numpy as np
import pytest

from decoct.igds.information import MEASURED, default_beta


@pytest.mark.parametrize(("ipc", "beta"), MEASURED)
def test_measured_ipcs_have_their_measured_beta(ipc, beta):
    assert default_beta(ipc) == pytest.approx(beta)


def test_beta_lies_on_the_line_between_its_neighbours_in_the_logarithm_of_ipc():
    ipcs, betas = zip(*MEASURED, strict=True)
    for ipc in range(1, 200):
        assert default_beta(ipc) == pytest.approx(np.interp(np.log(ipc), np.log(ipcs), betas))


def test_beta_never_falls_with_ipc_and_stays_beyond_the_measured_range():
    betas = [default_beta(ipc) for ipc in range(1, 1000)]
    assert min(betas) >= 0
    assert (np.diff(betas) >= 0).all()
    assert default_beta(MEASURED[-1][0] * 100) == MEASURED[-1][1]

import pytest
import torch
from torch import nn

from skode.density.fields import TIME_SPREAD, spread, spread_over


@pytest.mark.parametrize("n_features", [1, 2, 30])
def test_units_are_spread_over_the_data(n_features):
    layer = nn.Linear(n_features + 1, 4000)
    spread(layer, n_features, torch.Generator().manual_seed(0))
    z = torch.randn(4000, n_features, generator=torch.Generator().manual_seed(1))
    weight, bias = layer.weight.detach(), layer.bias.detach()
    assert float((z @ weight[:, :n_features].t()).std()) == pytest.approx(spread_over(n_features), rel=0.05)
    assert float(weight[:, n_features].std()) == pytest.approx(TIME_SPREAD, rel=0.05)
    assert 1.9 < float(bias.abs().max()) / spread_over(n_features) < 2.0 + 1e-6

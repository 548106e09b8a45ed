"""Large products are those of plain matrix multiplication, whichever library makes them."""

import pytest
import torch

from skode.dynamics import products

ROWS = products.WORTHWHILE // (64 * 48)


@pytest.fixture(params=["below", "above"])
def n(request):
    """A number of rows for which a product with a weight of shape (64, 48) is left to torch, or is not."""
    return ROWS if request.param == "below" else ROWS + 1


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_close(found, expected):
    assert torch.linalg.vector_norm(found.double() - expected) <= 1e-6 * torch.linalg.vector_norm(expected)


onednn = pytest.mark.skipif(products._ONEDNN is None, reason="this torch was built without oneDNN")


@pytest.fixture
def fast(monkeypatch):
    """A processor on which oneDNN is the faster one."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)


@onednn
def test_a_product_is_worthwhile_by_its_size_where_onednn_is_faster(n, fast):
    assert products.worthwhile(draw(1, 48), n, 48, 64) == (n > ROWS)
    assert not products.worthwhile(draw(1, 48, dtype=torch.float64), n, 48, 64)


@onednn
def test_no_product_is_worthwhile_where_onednn_is_no_faster_or_switched_off(monkeypatch, fast):
    assert products.worthwhile(draw(1, 48), 10 * ROWS, 48, 64)
    with monkeypatch.context() as off:
        off.setattr(torch.backends.mkldnn, "enabled", False)
        assert not products.worthwhile(draw(1, 48), 10 * ROWS, 48, 64)
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)
    assert not products.worthwhile(draw(1, 48), 10 * ROWS, 48, 64)


@onednn
def test_the_trial_is_made_once():
    assert isinstance(products.onednn_is_faster(), bool)
    before = products.onednn_is_faster.cache_info().misses
    products.onednn_is_faster()
    assert products.onednn_is_faster.cache_info().misses == before


@onednn
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_a_large_affine_map(transposed, biased):
    x, weight, bias = draw(ROWS + 1, 48), draw(64, 48, seed=1), draw(64, seed=2) if biased else None
    weight = weight.t().contiguous().t() if transposed else weight
    out = torch.full((ROWS + 1, 64), torch.nan)
    products.large_linear(out, x, weight, bias)
    expected = x.double() @ weight.double().t()
    assert_close(out, expected + bias.double() if biased else expected)


@pytest.mark.parametrize("faster", [False, pytest.param(True, marks=onednn)])
def test_an_outer_product(n, faster, monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: faster)
    left, right = draw(n, 64), draw(n, 48, seed=1)
    assert_close(products.outer(left, right), left.double().t() @ right.double())


@pytest.mark.parametrize("columns", [1, 2, 8, 9, 70])
def test_layouts_change_nothing_else(columns):
    x, weight = draw(30, 64), draw(64, columns, seed=1)
    factor = products.as_right_factor(weight)
    assert torch.equal(factor, weight)
    assert (factor.stride(0) == 1) == (columns <= products.NARROW)
    assert_close(x @ factor, x.double() @ weight.double())
    left, right = draw(50, 64), draw(50, columns, seed=2)
    assert_close(products.outer(left, right), left.double().t() @ right.double())

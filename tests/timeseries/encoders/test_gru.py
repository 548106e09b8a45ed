import copy
import pickle

import pytest
import torch
from torch import nn

from skode.timeseries.encoders.gru import GRU

SHAPES = [(5, 7, 3, 4), (1, 7, 3, 4), (5, 1, 3, 4), (5, 40, 1, 4), (5, 7, 3, 1), (1, 1, 1, 1), (40, 17, 12, 11)]
NAMES = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]


def pair(n_inputs, hidden_size, dtype=torch.float64):
    """A unit, and torch's with the same weights."""
    generator = torch.Generator().manual_seed(0)
    torchs = nn.GRU(n_inputs, hidden_size, batch_first=True, device="meta", dtype=dtype).to_empty(device="cpu")
    for parameter in torchs.parameters():
        nn.init.normal_(parameter, std=0.7, generator=generator)
    ours = GRU(n_inputs, hidden_size).to(dtype)
    ours.load_state_dict(torchs.state_dict())
    return ours, torchs


def normal(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def gradients(states, model, inputs):
    return torch.autograd.grad((states * normal(*states.shape, seed=2)).sum(), [inputs, *model.parameters()])


@pytest.mark.parametrize(("n", "n_steps", "n_inputs", "hidden_size"), SHAPES)
def test_states_and_gradients_are_torchs(n, n_steps, n_inputs, hidden_size):
    ours, torchs = pair(n_inputs, hidden_size)
    inputs = normal(n, n_steps, n_inputs).requires_grad_()
    states, expected = ours(inputs), torchs(inputs)[0]
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        gradients(states, ours, inputs), gradients(expected, torchs, inputs), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("step_major", [False, True])
def test_states_after_each_series_last_step_and_their_gradients_are_torchs(step_major):
    ours, torchs = pair(3, 4)
    lengths = torch.tensor([7, 1, 3, 7, 6])
    inputs = normal(7, 5, 3).transpose(0, 1) if step_major else normal(5, 7, 3)
    inputs.requires_grad_()
    last, expected = ours(inputs, lengths), torchs(inputs)[0][torch.arange(5), lengths - 1]
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        gradients(last, ours, inputs), gradients(expected, torchs, inputs), rtol=1e-10, atol=1e-10
    )
    with torch.no_grad():
        assert torch.equal(ours(inputs, lengths), last)


def test_a_second_backward_pass_from_last_states_gives_the_same():
    ours, _ = pair(3, 4)
    inputs, lengths = normal(5, 7, 3), torch.tensor([7, 1, 3, 7, 6])
    last = ours(inputs, lengths)
    first = torch.autograd.grad(last.sum(), list(ours.parameters()), retain_graph=True)
    ours(inputs).sum().backward()  # of other states, in the same memory
    again = torch.autograd.grad(last.sum(), list(ours.parameters()))
    torch.testing.assert_close(again, first, rtol=0, atol=0)


def test_large_weights_saturate_as_torchs():
    ours, torchs = pair(3, 4)
    with torch.no_grad():
        for parameter in [*ours.parameters(), *torchs.parameters()]:
            parameter *= 1e3
    inputs = normal(5, 7, 3).requires_grad_()
    states, expected = ours(inputs), torchs(inputs)[0]
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-10)
    assert all(gradient.isfinite().all() for gradient in gradients(states, ours, inputs))


def test_single_precision_is_as_exact_as_torchs():
    ours, torchs = pair(6, 32)
    inputs = normal(20, 50, 6)
    truth = torchs(inputs)[0]
    errors = [(states.double() - truth).abs().max() for states in (ours.float()(inputs.float()),)]
    errors += [(torchs.float()(inputs.float())[0].double() - truth).abs().max()]
    assert errors[0] < 4 * errors[1]


def test_gradcheck():
    ours, _ = pair(2, 3)
    inputs = normal(2, 4, 2).requires_grad_()
    parameters = list(ours.parameters())

    def states(inputs, *parameters):
        return torch.func.functional_call(ours, dict(zip(NAMES, parameters, strict=True)), inputs)

    assert torch.autograd.gradcheck(states, (inputs, *parameters))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_states_without_gradients_are_the_same(mode):
    ours, _ = pair(3, 4)
    inputs = normal(5, 7, 3)
    states = ours(inputs)
    with mode():
        without = ours(inputs)
    assert states.requires_grad
    assert not without.requires_grad
    assert torch.equal(states, without)
    assert torch.equal(ours(inputs), without)


def test_inputs_need_not_be_contiguous():
    ours, _ = pair(3, 4)
    inputs = normal(3, 5, 14).permute(1, 2, 0)[:, ::2].requires_grad_()
    contiguous = inputs.detach().contiguous().requires_grad_()
    assert torch.equal(ours(inputs), ours(contiguous))
    torch.testing.assert_close(gradients(ours(inputs), ours, inputs), gradients(ours(contiguous), ours, contiguous))


def test_cotangents_need_not_be_contiguous():
    ours, torchs = pair(3, 4)
    inputs = normal(5, 7, 3)
    expected = torch.autograd.grad(torchs(inputs)[0].sum(), list(torchs.parameters()))
    torch.testing.assert_close(torch.autograd.grad(ours(inputs).sum(), list(ours.parameters())), expected)


@pytest.mark.parametrize("frozen", [[], NAMES[:2], NAMES])
@pytest.mark.parametrize("of_inputs", [True, False])
def test_only_what_requires_a_gradient_gets_one(frozen, of_inputs):
    ours, torchs = pair(3, 4)
    for model in (ours, torchs):
        for name in frozen:
            getattr(model, name).requires_grad_(False)
    inputs = normal(5, 7, 3).requires_grad_(of_inputs)
    wanted = [[x for x in (inputs, *model.parameters()) if x.requires_grad] for model in (ours, torchs)]
    states = ours(inputs)
    assert states.requires_grad == bool(wanted[0])
    if wanted[0]:
        actual = torch.autograd.grad(states.square().sum(), wanted[0])
        expected = torch.autograd.grad(torchs(inputs)[0].square().sum(), wanted[1])
        torch.testing.assert_close(actual, expected)


def test_passes_in_any_order_do_not_disturb_each_other():
    ours, _ = pair(3, 4)
    inputs = [normal(5, n_steps, 3, seed=n_steps).requires_grad_() for n_steps in (7, 9, 7, 3)]
    expected = [gradients(ours(x), ours, x) for x in inputs]
    states = [ours(x) for x in inputs]
    with torch.no_grad():
        ours(normal(5, 8, 3))
    for i in (2, 0, 3, 1):
        for actual, gradient in zip(gradients(states[i], ours, inputs[i]), expected[i], strict=True):
            assert torch.equal(actual, gradient)


def test_a_second_backward_pass_gives_the_same():
    ours, _ = pair(3, 4)
    states = ours(normal(5, 7, 3))
    first = torch.autograd.grad(states.sum(), list(ours.parameters()), retain_graph=True)
    again = torch.autograd.grad(states.sum(), list(ours.parameters()))
    torch.testing.assert_close(again, first, rtol=0, atol=0)


def test_states_may_be_changed_in_place():
    ours, torchs = pair(3, 4)
    inputs = normal(5, 7, 3).requires_grad_()
    torch.testing.assert_close(
        gradients(ours(inputs).mul_(3.0), ours, inputs), gradients(torchs(inputs)[0] * 3.0, torchs, inputs)
    )


def test_weights_changed_before_the_backward_pass_are_noticed():
    ours, _ = pair(3, 4)
    states = ours(normal(5, 7, 3))
    with torch.no_grad():
        ours.weight_hh_l0 += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        states.sum().backward()


def test_gradients_cannot_be_differentiated_again():
    ours, _ = pair(3, 4)
    inputs = normal(5, 7, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(ours(inputs).sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="can't be differentiated again"):
        gradient.square().sum().backward()


def test_no_series():
    ours, _ = pair(3, 4)
    states = ours(normal(0, 7, 3))
    assert states.shape == (0, 7, 4)
    states.sum().backward()
    assert not ours.weight_hh_l0.grad.any()


def test_no_steps():
    ours, _ = pair(3, 4)
    states = ours(normal(5, 0, 3))
    assert states.shape == (5, 0, 4)
    states.sum().backward()
    assert not ours.weight_hh_l0.grad.any()


@pytest.mark.parametrize("inputs", [torch.zeros(5, 7, 2), torch.zeros(7, 3), torch.zeros(5, 7, 3, dtype=torch.float64)])
def test_other_inputs_are_refused(inputs):
    with pytest.raises(ValueError, match=r"GRU takes inputs of shape \(n_series, n_steps, 3\) and torch.float32"):
        GRU(3, 4)(inputs)


def test_parameters_are_named_and_shaped_as_torchs():
    ours, torchs = GRU(3, 4), nn.GRU(3, 4, device="meta")
    assert [(name, x.shape) for name, x in ours.named_parameters()] == [
        (name, x.shape) for name, x in torchs.named_parameters()
    ]
    torchs.to_empty(device="cpu").load_state_dict(pair(3, 4, torch.float32)[0].state_dict())


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    ours, _ = pair(3, 4)
    ours(normal(5, 7, 3)).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_give_the_same(copied):
    ours, _ = pair(3, 4)
    inputs = normal(5, 7, 3)
    ours(inputs).sum().backward()
    assert torch.equal(copied(ours)(inputs), ours(inputs))

import numpy as np
import pytest
import torch

from skode.training import check_unit_times, new_generator, resolve_device, resolve_dtype, to_numpy, to_tensor

CPU = torch.device("cpu")


def test_auto_is_a_gpu_where_there_is_one():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"device='{name}' can't be used here"):
        resolve_device(name)


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        (None, np.float32, torch.float32),
        (None, np.float64, torch.float64),
        (None, np.int64, torch.float64),
        ("float32", np.float64, torch.float32),
        ("float64", np.float32, torch.float64),
    ],
)
def test_on_the_cpu_the_dtype_is_the_one_asked_for_or_that_of_X(dtype, given, expected):
    assert resolve_dtype(dtype, np.zeros(2, dtype=given), CPU) == expected


def test_elsewhere_the_dtype_is_float32_unless_asked_for():
    assert resolve_dtype(None, np.zeros(2), torch.device("meta")) == torch.float32
    assert resolve_dtype("float64", np.zeros(2), torch.device("meta")) == torch.float64


def test_a_tensor_shares_no_memory_with_its_array():
    array = np.zeros(3)
    tensor = to_tensor(array, torch.float64, CPU)
    array[0] = 1.0
    assert not tensor.any()


def test_a_read_only_array_is_taken():
    array = np.ones(3)
    array.setflags(write=False)
    assert to_tensor(array, torch.float32, CPU).tolist() == [1.0, 1.0, 1.0]


def test_a_tensor_with_a_graph_becomes_an_array():
    tensor = torch.ones(2, requires_grad=True) * 2
    np.testing.assert_array_equal(to_numpy(tensor), [2.0, 2.0])


def test_a_generator_follows_its_seed_and_leaves_torchs_state_alone():
    before = torch.get_rng_state()
    draws = [torch.rand(3, generator=new_generator(np.random.RandomState(seed))).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(before, torch.get_rng_state())


def test_a_device_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"There are 'cpu'.* and 'auto'\."):
        resolve_device("gpu")


@pytest.mark.parametrize("wrong", ["deep", None, [[0.5]], [0.5, 0.2], [-0.1], [1.5], []])
def test_depths_that_are_none_are_refused_as_they_were_given(wrong):
    with pytest.raises(ValueError, match=r"t must be depths from 0 to 1") as caught:
        check_unit_times(wrong)
    assert f"got {wrong!r}" in str(caught.value)

import pytest
import torch

from skode.training.threads import GRAIN, worthwhile_threads


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_small_operations_get_one_thread_and_large_ones_keep_theirs():
    with worthwhile_threads(GRAIN - 1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with worthwhile_threads(GRAIN):
        assert torch.get_num_threads() == 2


def test_the_threads_come_back_after_an_error():
    with pytest.raises(KeyError), worthwhile_threads(1):
        raise KeyError
    assert torch.get_num_threads() == 2

"""What a module's evaluations depend on is found out: a change of any of it is noticed."""

import copy
import functools
import gc
import os
import types

import pytest
import torch
from torch import nn

from skode.solvers.device.fingerprint import fingerprint

RATE = 1.0
SETTINGS = {"rate": 1.0}


def scaled(y):
    return RATE * y


class Schedule:
    """What a field asks for its rate, by a class of its own."""

    offset = 0.0

    def __init__(self):
        self.rate = 1.0

    def __call__(self, t):
        return self.rate * t + self.offset + RATE


class Common:
    """A class that is used as it is, as settings often are."""

    rate = 1.0


class Field(nn.Module):
    """A user's module that reads things of all kinds."""

    rate = 1.0

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("shift", torch.zeros(3))
        self.constant = torch.ones(3)
        self.number, self.numbers, self.settings = 1.0, [1.0, 2.0], {"damped": False}
        self.schedule, self.activation = Schedule(), functools.partial(torch.mul, 2.0)

    def forward(self, t, y):
        y = self.activation(scaled(y)) * self.rate * self.number * self.half
        return self.helper(self.layer(y)) + self.shift * self.schedule(t) * self.constant * Common.rate

    @property
    def half(self):
        return 0.5 * SETTINGS["rate"]

    def helper(self, y):
        return y - RATE


def number(field, patch):
    field.number = 2.0


def kind_of_number(field, patch):
    field.number = 1


def list_in_place(field, patch):
    field.numbers[1] = 3.0


def dict_in_place(field, patch):
    field.settings["damped"] = True


def buffer_anew(field, patch):
    field.shift = field.shift.clone()


def tensor_anew(field, patch):
    field.constant = field.constant.clone()


def parameter_anew(field, patch):
    field.layer.weight = nn.Parameter(field.layer.weight.detach().clone())


def frozen(field, patch):
    field.layer.weight.requires_grad_(False)


def mode(field, patch):
    field.eval()


def layer_of_another_class(field, patch):
    class Other(nn.Linear):
        def forward(self, x):
            return -super().forward(x)

    field.layer.__class__ = Other


def layer_inside(field, patch):
    field.layer = nn.Sequential(field.layer, nn.Tanh())


def forward_of_its_own(field, patch):
    field.forward = lambda t, y: -y


def partial(field, patch):
    field.activation = functools.partial(torch.mul, 3.0)


def object_inside(field, patch):
    field.schedule.rate = 2.0


def module_global(field, patch):
    patch.setitem(globals(), "RATE", 2.0)


def forward_of_the_class(field, patch):
    patch.setattr(Field, "forward", lambda self, t, y: -y)


def attribute_of_the_class(field, patch):
    patch.setattr(Field, "rate", 2.0)


def attribute_of_an_objects_class(field, patch):
    patch.setattr(Schedule, "offset", 2.0)


def attribute_of_a_global_class(field, patch):
    patch.setattr(Common, "rate", 2.0)


def method_of_the_class(field, patch):
    patch.setattr(Field, "helper", lambda self, y: y + RATE)


def what_a_property_reads(field, patch):
    patch.setitem(SETTINGS, "rate", 2.0)


CHANGES = [
    number,
    kind_of_number,
    list_in_place,
    dict_in_place,
    buffer_anew,
    tensor_anew,
    parameter_anew,
    frozen,
    mode,
    layer_of_another_class,
    layer_inside,
    forward_of_its_own,
    partial,
    object_inside,
    module_global,
    forward_of_the_class,
    attribute_of_the_class,
    attribute_of_an_objects_class,
    attribute_of_a_global_class,
    method_of_the_class,
    what_a_property_reads,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_noticed(change, monkeypatch):
    field = Field()
    before = fingerprint(field)
    change(field, monkeypatch)
    after = fingerprint(field)
    assert after is None or after != before


def global_that_a_helper_reads():
    return RATE


class Asking(nn.Module):
    """Whose method, rather than ``forward`` itself, reads a global."""

    def forward(self, t, y):
        return self.rate() * y

    def rate(self):
        return global_that_a_helper_reads()


def test_a_global_that_only_a_method_reads(monkeypatch):
    field = Asking()
    before = fingerprint(field)
    monkeypatch.setitem(globals(), "RATE", 2.0)
    assert before is None or fingerprint(field) != before


class Choosing(nn.Module):
    """With two layers, of which one is in use."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.used = self.first
        self.scales = [torch.ones(3), torch.zeros(3)]
        self.scale = self.scales[0]

    def forward(self, t, y):
        return self.scale * self.used(y)


def test_which_of_several_is_used():
    field = Choosing()
    before = fingerprint(field)
    field.used = field.second
    layer = fingerprint(field)
    field.scale = field.scales[1]
    assert len({before, layer, fingerprint(field)}) == 3


def test_nothing_has_changed():
    field = Field()
    before = fingerprint(field)
    gc.collect()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(1.0)
        field.shift.add_(1.0)
    assert before is not None
    assert all(fingerprint(field) == before for _ in range(5))
    field(torch.tensor(0.5), torch.ones(2, 3)).sum().backward()
    assert fingerprint(field) == before


def test_other_modules_have_other_ones():
    field = Field()
    assert fingerprint(copy.deepcopy(field)) != fingerprint(field)
    assert fingerprint(copy.copy(field)) == fingerprint(field)  # it reads the same


@pytest.mark.parametrize(
    "held",
    [
        torch.Generator(),
        torch.ones(3, requires_grad=True),
        torch.ones(3, requires_grad=True) * 2,
        torch.eye(3).to_sparse(),
        iter([1.0]),
    ],
    ids=["generator", "leaf", "not a leaf", "sparse", "iterator"],
)
def test_what_cannot_be_told(held):
    field = Field()
    field.held = held
    assert fingerprint(field) is None


def test_modules_that_refer_to_each_other():
    field = Field()
    field.layer.owner = [field]
    assert fingerprint(field) == fingerprint(field)


def test_what_is_read_of_a_python_module(monkeypatch):
    settings = types.ModuleType("some_settings")
    settings.SCALE = 2.0
    monkeypatch.setitem(globals(), "settings", settings)

    class Field(torch.nn.Module):
        def forward(self, t, y):
            return -settings.SCALE * y

    before = fingerprint(Field())
    field = Field()
    before = fingerprint(field)
    assert before is not None
    settings.SCALE = 5.0
    assert fingerprint(field) != before


def test_what_special_methods_read(monkeypatch):
    monkeypatch.setitem(globals(), "FACTOR", 2.0)

    class Times:
        def __mul__(self, y):
            return FACTOR * y  # noqa: F821

    class Field(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.times = Times()

        def forward(self, t, y):
            return self.times * y

    field = Field()
    before = fingerprint(field)
    assert before is not None
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert fingerprint(field) != before


def test_the_environment_is_not_settled():
    class Field(torch.nn.Module):
        def forward(self, t, y):
            return float(os.environ.get("RATE", "1")) * y

    assert fingerprint(Field()) is None

"""Every tableau has exactly the order it claims, and says of itself what the steppers rely on."""

import dataclasses

import numpy as np
import pytest

from skode.solvers.tableaus import METHODS, ButcherTableau, get_method

# Of coefficients of size 1.
ROUNDING = 2e-15
# The least among the tableaus is 8e-6, of dopri8.
MISSED = 1e-6

CARRY = {"bosh3", "tsit5", "dopri5", "dopri8", "trapezoid", "trbdf2", "kvaerno3", "kvaerno5"}
DIAGONAL = {"implicit_euler", "implicit_midpoint", "trapezoid", "sdirk2", "trbdf2", "kvaerno3", "kvaerno5"}
COUPLED = {"gl4", "gl6", "radauIIA3", "radauIIA5"}
ADAPTIVE = {"adaptive_heun", "fehlberg2", "bosh3", "tsit5", "dopri5", "dopri8", "kvaerno3", "kvaerno5"}
OTHERS = {"euler", "midpoint", "heun2", "heun3", "rk4"}


def named(condition):
    """Of the methods above, those for which the condition holds."""
    return {name for name in CARRY | DIAGONAL | COUPLED | ADAPTIVE | OTHERS if condition(METHODS[name])}


def rounding(tableau):
    """By how much sums over the stages may miss: more where the coefficients are large (beyond 40 for dopri8)."""
    return ROUNDING * max((1.0, *(abs(x) for row in tableau.a for x in row)))


def small(**changes):
    """A method of two stages, the last of which is the first of the next step."""
    half = (0.5, 0.5)
    fields = {"c": (0.0, 1.0), "a": ((0.0, 0.0), half), "b": half, "interpolant": ((1.0, -0.5), (0.0, 0.5))}
    return ButcherTableau(name="small", order=2, interpolant_order=2, source="", **{**fields, **changes})


def test_numbers_of_rooted_trees(rooted_trees):
    # Sloane's A000081: the conditions tested below are all there are.
    assert [len(rooted_trees(n)) for n in range(1, 10)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]


def test_every_method_is_known_by_its_name():
    for name, tableau in METHODS.items():
        assert tableau.name == name
        assert get_method(name) is tableau


def test_stage_times_are_row_sums(tableau, full_matrix):
    np.testing.assert_allclose(full_matrix(tableau).sum(1), tableau.c, rtol=0, atol=rounding(tableau))


def test_rows_of_explicit_methods_end_before_the_diagonal(explicit_tableau):
    assert [len(row) for row in explicit_tableau.a] == list(range(explicit_tableau.n_stages))


def test_rows_of_implicit_methods_have_all_stages(implicit_tableau):
    assert [len(row) for row in implicit_tableau.a] == [implicit_tableau.n_stages] * implicit_tableau.n_stages


def test_solution_satisfies_all_conditions_to_its_order(tableau, full_matrix, residuals):
    for n in range(1, tableau.order + 1):
        missed = residuals(np.array(tableau.b), full_matrix(tableau), n)
        np.testing.assert_allclose(missed, 0.0, atol=rounding(tableau))


def test_solution_misses_a_condition_of_the_next_order(tableau, full_matrix, residuals):
    missed = residuals(np.array(tableau.b), full_matrix(tableau), tableau.order + 1)
    assert np.abs(missed).max() > MISSED


def test_error_weights_sum_to_zero(adaptive_tableau):
    assert abs(sum(adaptive_tableau.e)) < 2e-15


def test_embedded_solution_satisfies_all_conditions_to_its_order(adaptive_tableau, full_matrix, residuals):
    embedded = np.array(adaptive_tableau.b) - adaptive_tableau.e
    for n in range(1, adaptive_tableau.error_order + 1):
        missed = residuals(embedded, full_matrix(adaptive_tableau), n)
        np.testing.assert_allclose(missed, 0.0, atol=rounding(adaptive_tableau))


def test_embedded_solution_is_one_order_below_the_solution(adaptive_tableau, full_matrix, residuals):
    embedded = np.array(adaptive_tableau.b) - adaptive_tableau.e
    assert adaptive_tableau.error_order == adaptive_tableau.order - 1
    assert np.abs(residuals(embedded, full_matrix(adaptive_tableau), adaptive_tableau.order)).max() > MISSED


def test_kinds_of_methods():
    assert named(lambda tableau: tableau.adaptive) == ADAPTIVE
    assert named(lambda tableau: tableau.implicit) == DIAGONAL | COUPLED
    assert named(lambda tableau: tableau.diagonal) == DIAGONAL
    assert named(lambda tableau: tableau.fsal) == CARRY


def test_last_stage_is_carried_from_an_explicit_start_to_an_end_at_the_new_state():
    assert small().fsal
    assert small(a=((), (1.0,)), b=(1.0, 0.0)).fsal
    assert not small(a=((0.5, -0.5), (0.5, 0.5))).fsal
    assert not small(c=(0.25, 1.0)).fsal
    assert not small(c=(0.0, 0.75)).fsal
    assert not small(a=((), (1.0,))).fsal


@pytest.mark.parametrize("a", [((),), ((0.0,),), ((1.0,),)])
def test_a_single_stage_is_never_carried(a):
    assert not small(c=(1.0,), a=a, b=(1.0,), interpolant=((1.0,),)).fsal
    assert not small(c=(0.0,), a=a, b=(1.0,), interpolant=((1.0,),)).fsal


@pytest.mark.parametrize(
    ("a", "implicit", "diagonal"),
    [
        (((), (1.0,)), False, False),
        (((0.0, 0.0), (1.0, 0.0)), False, False),
        (((0.0, 0.0), (0.5, 0.5)), True, True),
        (((0.5, -0.5), (1.0, 0.0)), True, False),
        (((0.0, 0.5), (1.0, 0.0)), True, False),
    ],
)
def test_a_method_is_implicit_by_what_stands_on_and_right_of_the_diagonal(a, implicit, diagonal):
    assert small(a=a).implicit is implicit
    assert small(a=a).diagonal is diagonal


def test_a_tableau_cannot_be_changed(tableau):
    with pytest.raises(dataclasses.FrozenInstanceError):
        tableau.order = 9


@pytest.mark.parametrize("name", ["rk5", "DOPRI5", None, 5, ["rk4"]])
def test_an_unknown_method_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"method=.*bosh3.*dopri5.*tsit5") as caught:
        get_method(name)
    assert repr(name) in str(caught.value)

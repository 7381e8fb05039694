"""The statistics that decide what a study claims."""

import numpy as np
import pytest
from scipy import stats

from hf_cifar_resnet.study.statistics import (
    accuracy_interval,
    are_equivalent,
    confidence_interval,
    correlation,
    holm,
    pair,
    paired_p_value,
    power_of,
    seeds_needed,
    smallest_effect,
)

# Seeds differ by points, and the variants by 0.3 points on each.
SEEDS = {42: 0.60, 43: 0.63, 44: 0.58, 45: 0.65, 46: 0.61}
BETTER = {42: 0.6030, 43: 0.6335, 44: 0.5825, 45: 0.6532, 46: 0.6129}


def test_paired_difference_is_found_that_welch_misses():
    differences = pair(BETTER, SEEDS)
    unpaired = stats.ttest_ind(list(BETTER.values()), list(SEEDS.values()), equal_var=False).pvalue
    assert paired_p_value(differences) < 0.001 < 0.5 < unpaired
    assert correlation(BETTER, SEEDS) > 0.99


def test_only_shared_seeds_are_paired_whatever_their_order():
    assert pair({1: 0.5, 2: 0.7, 9: 0.1}, {2: 0.6, 1: 0.5, 3: 0.2}) == pytest.approx([0.0, 0.1])


def test_seeds_that_agree_exactly_claim_nothing():
    assert paired_p_value([0.01, 0.01, 0.01]) == 1.0


def test_equal_differences_of_floats_are_no_deviation():
    differences = pair({1: 0.41, 2: 0.51}, {1: 0.40, 2: 0.50})
    assert paired_p_value(differences) == 1.0 and not are_equivalent(differences, 0.02)


def test_p_values_are_corrected_for_the_number_of_comparisons():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.02}) == pytest.approx({"a": 0.03, "c": 0.04, "b": 0.04})
    assert holm({"a": 0.01, "b": 0.04, "c": 0.3}) == pytest.approx({"a": 0.03, "b": 0.08, "c": 0.3})


def test_power_of_paired_seeds():
    # Cohen 1988 has 33.4 pairs for an effect of 0.5, and 10 for 1.
    assert [seeds_needed(effect, 0.05) for effect in (0.5, 1.0)] == [34, 10] and seeds_needed(1e-3, 0.05) is None
    assert power_of(smallest_effect(5, 0.05), 5, 0.05) == pytest.approx(0.8, abs=1e-6)
    assert smallest_effect(2, 0.05 / 100) > smallest_effect(2, 0.05) > smallest_effect(50, 0.05)


def test_equivalence_is_shown_by_two_one_sided_tests():
    differences = [0.001, -0.001, 0.0005, 0.0, -0.0005]
    assert are_equivalent(differences, 0.005) and not are_equivalent(differences, 0.0005)
    assert not are_equivalent([0.02, -0.02, 0.0], 0.005)


def test_interval_of_a_mean():
    # t(0.975, 2) = 4.303
    assert confidence_interval([0.50, 0.51, 0.52]) == pytest.approx((0.4852, 0.5348), abs=1e-4)
    assert accuracy_interval([0.0, 0.9]) == (0.0, 1.0)


def test_correlation_needs_three_seeds_that_differ():
    assert correlation({1: 0.5, 2: 0.6}, {1: 0.5, 2: 0.6}) is None
    assert correlation({1: 0.5, 2: 0.5, 3: 0.5}, SEEDS) is None
    values = np.random.default_rng(0).random(20)
    a, b = dict(enumerate(values)), dict(enumerate(-values))
    assert correlation(a, b) == pytest.approx(-1)

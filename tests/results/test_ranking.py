import math

import pytest

from decoct.results.ranking import dd_ranking, hard_label_recovery, improvement_over_random, label_robust_score

SETTING = {"student": "convnet3", "protocol": "rded_kd", "baseline_note": ""}


def test_the_metrics_at_known_values():
    assert hard_label_recovery(0.9, 0.5) == pytest.approx(0.4)
    assert improvement_over_random(0.6, 0.5) == pytest.approx(0.1)
    # a = 0: (1 - 1/e) / (e - 1/e) = 1 / (e + 1)
    assert label_robust_score(0.3, 0.3) == pytest.approx(1 / (math.e + 1))
    # Everything recovered and 100 points above random, and the reverse: the ends of the scale.
    assert label_robust_score(-1, 1) == pytest.approx(1)
    assert label_robust_score(1, -1) == pytest.approx(0)
    assert label_robust_score(0.4, 0.1) == pytest.approx((math.exp(-0.15) - 1 / math.e) / (math.e - 1 / math.e))


def test_the_score_grows_with_improvement_and_falls_with_what_hard_labels_lose():
    scores = [label_robust_score(hlr, ior) for hlr, ior in ((0.5, 0.0), (0.5, 0.1), (0.4, 0.1), (0.1, 0.3))]
    assert scores == sorted(scores) and len(set(scores)) == 4


def test_a_whole_record():
    metrics = dd_ranking(own=0.6, random=0.5, hard=0.4, real=0.8, **SETTING)
    assert metrics["hlr"] == pytest.approx(0.4) and metrics["ior"] == pytest.approx(0.1)
    assert metrics["lrs"] == pytest.approx(label_robust_score(0.4, 0.1))
    assert metrics["real_accuracy"] == 0.8 and metrics["note"] == ""


def test_what_is_unknown_is_left_out_and_the_note_says_how_to_give_it():
    metrics = dd_ranking(own=0.6, random=0.5, hard=0.4, real=None, **SETTING)
    assert (metrics["hlr"], metrics["lrs"]) == (None, None) and metrics["ior"] == pytest.approx(0.1)
    assert "--real_accuracy convnet3=FRACTION" in metrics["note"]
    metrics = dd_ranking(own=0.6, random=None, hard=0.4, real=0.8, **{**SETTING, "baseline_note": "turned off"})
    assert (metrics["ior"], metrics["lrs"]) == (None, None) and metrics["hlr"] == pytest.approx(0.4)
    assert "turned off" in metrics["note"]
    metrics = dd_ranking(own=0.6, random=0.5, hard=None, real=0.8, **SETTING)
    assert metrics["hlr"] is None and "rded_kd is not defined for hard labels" in metrics["note"]

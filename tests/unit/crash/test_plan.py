from __future__ import annotations

from tests.crash.plan import Death, Plan

MOMENTS = ["run.claimed", "cancel.ended", "stop.runs_let_go"]


def test_the_same_seed_is_the_same_plan():
    one, other = Plan(7, MOMENTS), Plan(7, MOMENTS)
    assert [one.next() for _ in range(50)] == [other.next() for _ in range(50)]


def test_deaths_are_of_all_kinds():
    plan = Plan(1, MOMENTS)
    kinds = [plan.next().kind for _ in range(400)]
    shares = {kind: kinds.count(kind) / 400 for kind in ("moment", "random", "term")}
    assert 0.45 < shares["moment"] < 0.65
    assert 0.25 < shares["random"] < 0.45
    assert 0.04 < shares["term"] < 0.2


def test_what_was_hit_least_comes_first():
    plan = Plan(1, [*MOMENTS, "call.sent", "call.ended", "never"])
    for _ in range(200):
        death = plan.next()
        if death.moment == "never":
            plan.missed(death.moment)
        elif death.moment:
            plan.came(death.moment)
    assert max(plan.hits.values()) - min(plan.hits.values()) <= 4
    assert plan.unreached == ["never"]


def test_a_moment_has_the_story_that_passes_it():
    assert Death("moment", 1.0, "cancel.ended").story == "cancel"
    assert Death("moment", 1.0, "run.claimed").story == ""


def test_some_deaths_begin_with_sigterm():
    plan = Plan(1, MOMENTS)
    assert plan.ends_orderly(Death("term", 1.0))
    assert plan.ends_orderly(Death("moment", 1.0, "stop.runs_let_go"))
    assert not plan.ends_orderly(Death("moment", 1.0, "run.claimed"))

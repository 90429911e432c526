"""What is tried next, with losses that are made up instead of trained."""

from __future__ import annotations

import math
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxgrid.errors import ConfigError, OutputError
from fluxgrid.training.search import SPACES, Study, grid_points, grid_size, run_search

GRID = {"a": (1, 2, 3), "b": (0.1, 0.4), "c": ("x", "y"), "d": (True, None)}
FOLDS = 3


def loss_of(point) -> float:
    return point["a"] + point["b"] + (point["c"] == "x") + (point["d"] is not None)


def score(point):
    yield from (loss_of(point) + fold / 10 for fold in range(FOLDS))


@pytest.fixture
def study_of(tmp_path):
    """Return a function that opens the study in a file."""

    def make(name: str = "study", grid=GRID, seed: int = 1) -> Study:
        return Study(tmp_path / f"{name}.db", "made-up", grid, seed)

    return make


def test_nothing_is_tried_twice_and_all_of_the_grid_if_trials_suffice(study_of):
    assert run_search(study_of(), 24, FOLDS, score).settings == {"a": 1, "b": 0.1, "c": "y", "d": None}
    tried = [tuple(trial.settings.items()) for trial in study_of().trials]
    assert tried == [tuple(point.items()) for point in grid_points(GRID)]


def test_fewer_trials_than_points_are_all_different(study_of):
    run_search(study_of(), 19, FOLDS, score)
    trials = study_of().trials
    assert len({tuple(trial.settings.items()) for trial in trials}) == len(trials) == 19
    assert {type(trial.settings["d"]) for trial in trials} <= {bool, type(None)}
    run_search(study_of(), 19, FOLDS, lambda _: pytest.fail("enough were tried"))


def test_the_estimator_finds_good_settings_sooner_than_chance_would(study_of):
    """The mean loss of what is proposed falls below the mean of the grid, which is what chance would give."""
    run_search(study_of(), 16, FOLDS, score)
    late = [loss_of(trial.settings) for trial in study_of().trials[10:]]
    chance = [loss_of(point) for point in grid_points(GRID)]
    assert sum(late) / len(late) < sum(chance) / len(chance) - 0.3


@pytest.mark.parametrize("cut", [3, 11])
def test_a_search_in_two_pieces_is_one_search(study_of, cut):
    run_search(study_of("whole"), 13, FOLDS, score)
    run_search(study_of("pieces"), cut, FOLDS, score)
    reported = []
    best = run_search(study_of("pieces"), 13, FOLDS, score, report=reported.append)
    assert len(reported) == 13 - cut
    whole, pieces = (study_of(name).trials for name in ("whole", "pieces"))
    assert [(t.settings, t.folds) for t in whole] == [(t.settings, t.folds) for t in pieces]
    assert best == min(pieces, key=lambda trial: trial.loss)


def test_other_seeds_try_other_settings(study_of):
    for seed in (1, 2):
        run_search(study_of(f"seed{seed}", seed=seed), 3, FOLDS, score)
    one, two = ([t.settings for t in study_of(f"seed{seed}").trials] for seed in (1, 2))
    assert one != two


def test_bad_settings_are_given_up_and_cannot_be_the_best(study_of):
    def tricky(point):
        """One point looks bad at first and is the best at last."""
        bad = point == {"a": 3, "b": 0.4, "c": "x", "d": True}
        yield from ([9.0, -20.0, -20.0] if bad else score(point))

    best = run_search(study_of("pruned"), 24, FOLDS, tricky, prune=True)
    trials = study_of("pruned").trials
    pruned = [trial for trial in trials if trial.pruned]
    assert pruned
    assert all(len(trial.folds) < FOLDS for trial in pruned)
    assert not any(trial.pruned for trial in trials[:5])  # there is nothing to compare with
    assert {trial.pruned for trial in trials if trial.settings == {"a": 3, "b": 0.4, "c": "x", "d": True}} == {True}
    assert best.loss == min(trial.loss for trial in trials if not trial.pruned)
    whole = run_search(study_of("whole"), 24, FOLDS, tricky)
    assert whole.loss == pytest.approx(-31 / 3)


def test_losses_that_are_not_finite_are_kept_and_never_win(study_of):
    def wild(point):
        yield from (math.nan if point["a"] == 1 else loss_of(point) for _ in range(FOLDS))

    best = run_search(study_of(), 24, FOLDS, wild)
    assert best.settings["a"] == 2
    assert sum(math.isinf(trial.loss) for trial in study_of().trials) == 8
    with pytest.raises(ConfigError, match="None of the 6 trials had a finite loss"):
        run_search(study_of("wild"), 6, FOLDS, lambda _: iter([math.inf] * FOLDS))


def test_the_file_holds_numbers_and_json_only(study_of, tmp_path):
    """Nothing in it is an object of Python's, which reading would run."""
    run_search(study_of(), 5, FOLDS, score)
    with sqlite3.connect(tmp_path / "study.db") as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        cells = [cell for name in tables for row in connection.execute(f"select * from {name}") for cell in row]
    assert len(cells) > 50
    assert not any(isinstance(cell, bytes) for cell in cells)


def test_a_file_that_is_no_study_is_refused(study_of, tmp_path):
    (tmp_path / "study.db").write_text("not a database, but long enough to look like one to a careless reader\n" * 20)
    with pytest.raises(OutputError, match=r"study\.db cannot be read or written \(DatabaseError.*move the file away"):
        study_of()


@settings(max_examples=10)
@given(st.dictionaries(st.text("abc", min_size=1), st.lists(st.integers(), min_size=1, unique=True), min_size=1))
def test_a_grid_is_the_product_of_its_values(grid):
    points = [tuple(point.items()) for point in grid_points({key: tuple(values) for key, values in grid.items()})]
    assert len(points) == len(set(points)) == grid_size(grid)


def test_the_published_grids_have_the_published_sizes():
    code = {kind: grid_size(grid) for kind, grid in SPACES["code"].items()}
    assert code["lstm"] == code["ct_gru"] == 2**4
    assert code["transformer"] == code["tam_rl"] == 2**5
    for kind, grid in SPACES["code"].items():
        assert grid.keys() == SPACES["paper"][kind].keys()

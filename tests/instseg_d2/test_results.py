import csv
import json

import pytest
from omegaconf import OmegaConf

from instseg_d2.results import (
    RUN_COLUMNS,
    ResultsError,
    append_rows,
    format_metrics,
    markdown_table,
    parse_metrics,
    read_results,
    replace_between,
    result_row,
    run_facts,
)


def test_row_of_a_run(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "train: {max_iter: 120, seed: 3, device: cpu}\ndataloader: {test: {dataset: {names: shapes_val}}}\n"
    )
    (tmp_path / "metrics.json").write_text(
        '{"iteration": 0, "time": 0.4}\n{"iteration": 1, "time": 0.6}\n{"iteration": 1}\n'
    )
    scores = {"bbox": {"AP": 41.234, "AP50": 60.0}, "segm": {"AP": 30.0, "AP50": 55.556}}
    (tmp_path / "results.json").write_text(json.dumps(scores))
    row = result_row(tmp_path, "Baselines/x")
    of_a_study = {"row", "budget", "overrides", "starts_from", "fingerprint"}
    assert set(row) == set(RUN_COLUMNS) - of_a_study
    assert row["metrics"] == "bbox/AP=41.234; bbox/AP50=60; segm/AP=30; segm/AP50=55.556"
    assert (row["seed"], row["minutes"], row["dataset"]) == (3, 1.0, "shapes_val")


def test_times_of_a_killed_and_resumed_run_count_once(tmp_path):
    (tmp_path / "metrics.json").write_text(
        '{"iteration": 0, "time": 1.0}\n{"iteration": 1, "time": 9.0}\n'
        '{"iteration": 2, "ti{"iteration": 1, "time": 1.0}\n{"iteration": 1, "time": 3.0}\n'
    )
    cfg = OmegaConf.create(
        {"train": {"max_iter": 30, "seed": 0}, "dataloader": {"test": {"dataset": {"names": ["a", "b"]}}}}
    )
    facts = run_facts(tmp_path, cfg)
    assert (facts["minutes"], facts["dataset"]) == (1.0, "a, b")
    (tmp_path / "metrics.json").write_text("")
    with pytest.raises(ResultsError, match="has no times"):
        run_facts(tmp_path, cfg)


def test_metrics_survive_the_csv(tmp_path):
    (tmp_path / "results.json").write_text('{"segm": {"AP": 26.071234, "APs": NaN, "note": "x"}, "a=b": {"AP-c d": 1}}')
    found = read_results(tmp_path / "results.json")
    text = format_metrics(found)
    assert text == "segm/AP=26.0712; segm/APs=nan; a=b/AP-c d=1"
    parsed = parse_metrics(text)
    assert list(parsed) == ["segm/AP", "segm/APs", "a=b/AP-c d"]
    assert parsed["segm/AP"] == 26.0712
    assert parse_metrics("") == {}


def test_rows_are_appended_under_one_header(tmp_path):
    path = tmp_path / "results" / "x.csv"
    append_rows(path, [{"a": 1, "b": "x, y"}], ("a", "b"))
    append_rows(path, [{"a": 2, "b": "z"}], ("a", "b"))
    assert list(csv.reader(path.open())) == [["a", "b"], ["1", "x, y"], ["2", "z"]]
    assert markdown_table(path, ("b", "a")).splitlines() == ["| b | a |", "| --- | --- |", "| x, y | 1 |", "| z | 2 |"]


def test_file_with_other_columns_is_refused(tmp_path):
    (tmp_path / "b.csv").write_text("one,two\n")
    with pytest.raises(ValueError, match="has the columns one,two, not a,b"):
        append_rows(tmp_path / "b.csv", [{"a": 1}], ("a", "b"))


def test_only_the_marked_part_is_replaced(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("head\n<!-- results -->\nold\n<!-- /results -->\ntail\n")
    replace_between(path, "results", "new")
    replace_between(path, "results", "newer")
    assert path.read_text() == "head\n<!-- results -->\nnewer\n<!-- /results -->\ntail\n"
    with pytest.raises(ValueError, match="other"):
        replace_between(path, "other", "x")

import csv
import json

import pytest

from instseg_d2.results import RUN_COLUMNS, append_rows, markdown_table, replace_between, result_row


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
    assert set(row) == set(RUN_COLUMNS)
    assert (row["box_AP"], row["mask_AP50"], row["seed"], row["minutes"]) == (41.23, 55.56, 3, 1.0)
    assert row["dataset"] == "shapes_val"


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

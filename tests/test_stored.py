import json

import pytest

from course_utils.data import stored


def test_a_stored_result_is_read_and_a_wrong_name_lists_those_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "DATA", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "one.json").write_text(json.dumps({"rows": [1]}))
    assert stored.stored_result("one") == {"rows": [1]}
    with pytest.raises(ValueError, match="there are: one"):
        stored.stored_result("two")


def test_a_repository_without_the_model_says_how_to_train_it(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "DATA", tmp_path)
    with pytest.raises(ValueError, match="course_utils.pretraining --help"):
        stored.docs_bert()


def test_what_is_saved_is_read_with_its_command_versions_and_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "DATA", tmp_path)
    stored.save_result("two", "python -m two", [{"steps": 1}], baseline={"loss": 2.0})
    found = stored.stored_result("two")
    assert found["command"] == "python -m two" and found["rows"] == [{"steps": 1}]
    assert found["baseline"] == {"loss": 2.0}
    assert {"date", "versions", "machine"} <= set(found)

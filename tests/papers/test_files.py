"""Files that the package writes atomically."""

import json

import pytest

from papers._files import save_atomically, save_json


@pytest.mark.parametrize(
    "content",
    [
        {
            "runs": [{"name": "HN", "dots": [[0.5, 0.25], [1, 2]], "none": None}, {}],
            "empty": [],
            "mixed": [1, [2], {"a": True}],
        },
        [],
        [1.5, 2],
        'text, "quoted"',
        {},
    ],
)
def test_save_json_round_trip(tmp_path, content):
    save_json(tmp_path / "content.json", content)
    assert json.loads((tmp_path / "content.json").read_text()) == content
    assert [path.name for path in tmp_path.iterdir()] == ["content.json"]


def test_save_json_list_of_numbers_is_one_line(tmp_path):
    save_json(tmp_path / "content.json", {"dots": [[0.5, 0.25], [1, 2]], "steps": [1, 2, 3]})
    assert (tmp_path / "content.json").read_text() == (
        '{\n  "dots": [\n    [0.5, 0.25],\n    [1, 2]\n  ],\n  "steps": [1, 2, 3]\n}\n'
    )


def test_save_atomically_failed_write_keeps_old_file(tmp_path):
    path = tmp_path / "content.json"
    save_json(path, {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_json(path, {"a": {1, 2}})
    with pytest.raises(TypeError, match="JSON keys must be strings, got 1"):
        save_json(path, {"a": {1: 2}})

    def half(part):
        part.write_text("half of it")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_atomically(path, half)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["content.json"]

"""Files that the package writes atomically."""

import json

import pytest

from papers._files import remove_drafts, save_atomically, save_json


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


def test_save_atomically_two_writers_leave_one_complete_file(tmp_path):
    path = tmp_path / "content.json"

    def slow(temp_path):
        temp_path.write_text("first, ")
        save_atomically(path, lambda other: other.write_text("second"))
        assert path.read_text() == "second"
        with temp_path.open("a") as file:
            file.write("complete")

    save_atomically(path, slow)
    assert path.read_text() == "first, complete"
    assert [path.name for path in tmp_path.iterdir()] == ["content.json"]


def test_save_atomically_link_with_predictable_name_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("keep")
    names = [f"content.json{end}" for end in (".part", ".tmp", "~")]
    for name in names:
        (tmp_path / name).symlink_to(other)
    save_json(tmp_path / "content.json", [1])
    assert other.read_text() == "keep"
    assert {path.name for path in tmp_path.iterdir()} == {"content.json", "other", *names}


def test_remove_drafts_keeps_other_files(tmp_path):
    drafts = []

    def killed(temp_path):
        temp_path.write_text("half")
        drafts.append(temp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_atomically(tmp_path / "content.json", killed)
    drafts[0].write_text("half")  # a killed writer cannot remove it
    kept = [".lock", ".other.tmp", "content.json"]
    for name in kept:
        (tmp_path / name).touch()
    remove_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept

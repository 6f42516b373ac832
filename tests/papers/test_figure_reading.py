"""Reading the data files of figures: their contents, and every error with its file, line and column."""

import pytest
import torch

from papers.figures import (
    Diagrams,
    Triplets,
    read_diagrams,
    read_embeddings,
    read_groups,
    read_histories,
    save_embeddings,
)

DIAGRAMS = "iteration,split,moment,anchor,s_ap,s_an\n"
EPOCHS = "epoch,step,recall_at_1,hard_share,loss,run\n"
GROUPS = "method,images_per_class,seed,recall_at_1\n"


def write_table(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_read_diagrams_returns_steps_and_moments(tmp_path):
    path = write_table(
        tmp_path,
        DIAGRAMS + "4,train,before,7,0.5,0.75\n4,train,before,3,,0.1\n4,train,after,3,,0.2\n4,train,after,7,0.6,0.7\n"
        "0,train,after,0,1,-1\n9,test,before,0,0.1,0.2\n9,test,after,0,1.0004,nan\n12,test,before,5,0.3,0.4\n",
    )
    found = read_diagrams(path)
    assert list(found.steps()) == [4]
    assert list(found.steps("test")) == [9]
    before, after = found.steps()[4]
    assert before.anchor.tolist() == after.anchor.tolist() == [3, 7], "anchors are matched"
    assert before.s_ap.isnan().tolist() == [True, False]
    assert before.s_an.tolist() == [0.1, 0.75]
    assert after.s_an.tolist() == [0.2, 0.7]
    assert after.s_an.dtype == torch.float64
    assert found.last("train") is found.moments[4, "train", "after"]
    assert found.last("test") is found.moments[12, "test", "before"], "the last iteration, not the last moment"
    assert read_diagrams(write_table(tmp_path, DIAGRAMS + "0,test,before,0,0,0\n")).last("train") is None


def test_diagrams_last_prefers_after_step(tmp_path):
    text = DIAGRAMS + "2,train,after,0,0.5,0.6\n2,train,before,0,0.3,0.4\n0,train,after,0,0,0\n"
    assert read_diagrams(write_table(tmp_path, text)).last("train").s_ap.tolist() == [0.5]
    one, other = (Triplets(torch.zeros(1), torch.ones(1), torch.ones(1)) for _ in range(2))
    for order in ((("before", one), ("after", other)), (("after", other), ("before", one))):
        assert Diagrams({(2, "train", moment): found for moment, found in order}).last("train") is other


def test_read_histories_returns_runs(tmp_path):
    path = write_table(tmp_path, EPOCHS + "0,0,0.25,,,SCT\n0,5,,0.5,2,HN\n1,10,0.5,0.125,-1.5,SCT\n1,20,,,3,SCT\n")
    found = read_histories(path)
    assert list(found) == ["SCT", "HN"]
    assert found["SCT"].epoch.tolist() == [0, 1, 1]
    assert found["SCT"].step.tolist() == [0, 10, 20]
    assert found["SCT"].recall_at_1.tolist()[:2] == [0.25, 0.5]
    assert found["SCT"].recall_at_1.isnan().tolist() == [False, False, True]
    assert found["SCT"].hard_share.isnan().tolist() == [True, False, True]
    assert found["SCT"].loss.tolist()[1:] == [-1.5, 3]
    assert found["HN"].hard_share.tolist() == [0.5]


def test_read_groups_sorts_by_size(tmp_path):
    path = write_table(tmp_path, GROUPS + "HP,8,0,0.3\nEP,4,1,0.5\nEP,2,0,0.25\nEP,4,0,0.75\n")
    found = read_groups(path)
    assert found == {"HP": {8: {0: 0.3}}, "EP": {2: {0: 0.25}, 4: {1: 0.5, 0: 0.75}}}
    assert list(found) == ["HP", "EP"]
    assert list(found["EP"]) == [2, 4]


def test_read_histories_accepts_spreadsheet_format(tmp_path):
    text = '\ufeffrun,"loss",step, epoch ,hard_share,recall_at_1\r\n\r\n"a, b",,3, 1 ,0.5, 1e-1\r\n'
    found = read_histories(write_table(tmp_path, text))
    assert found["a, b"].recall_at_1.tolist() == [0.1]
    assert found["a, b"].loss.isnan().all()


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_diagrams, "", "table.csv is empty"),
        (read_diagrams, " \n\n", "table.csv is empty"),
        (read_diagrams, DIAGRAMS, "table.csv contains no rows below its header"),
        (read_histories, DIAGRAMS + "0,train,after,0,1,1\n", r"line 1: columns must be epoch,step,.*, got 'iteration'"),
        (read_histories, "epoch,step,step,run\n", "line 1: columns must be unique, got 'step' twice"),
        (read_histories, "epoch,step,run\n1,2,a\n", "line 1: columns must be .*; 'recall_at_1' is missing"),
        (read_histories, EPOCHS + "1,2,0.5\n", "line 2: must have 6 cells, as line 1 has, got 3"),
        (read_histories, EPOCHS + "1,2,0.5,,,a,b\n", "line 2: must have 6 cells, as line 1 has, got 7"),
        (read_histories, EPOCHS + '1,2,0.5,,,"a\n', "line 2: not CSV: unexpected end of data"),
        (read_histories, EPOCHS.encode() + b"1,2,,,,a\n1,3,,,,\xe9t\xe9\n", "line 3: must be UTF-8, got byte 0xe9"),
        (read_histories, EPOCHS + "one,2,,,,a\n", "line 2, column epoch: must be an integer from 0, got 'one'"),
        (read_histories, EPOCHS + "1,-2,,,,a\n", "line 2, column step: must be an integer from 0, got '-2'"),
        (read_histories, EPOCHS + "1,1.0,,,,a\n", "line 2, column step: must be an integer from 0, got '1.0'"),
        (read_histories, EPOCHS + "1,,,,,a\n", "line 2, column step: must be an integer from 0, got ''"),
        (read_histories, EPOCHS + "1,٣,,,,a\n", "line 2, column step: must be an integer from 0, got '٣'"),
        (read_histories, EPOCHS + "1,2,2,,,a\n", "column recall_at_1: must be a number from 0 to 1 or empty, got '2'"),
        (
            read_histories,
            EPOCHS + "1,2,,-0.1,,a\n",
            "column hard_share: must be a number from 0 to 1 or empty, got '-0",
        ),
        (read_histories, EPOCHS + "1,2,,,inf,a\n", "column loss: must be a number or empty, got 'inf'"),
        (read_histories, EPOCHS + "1,2,,,1_0,a\n", "column loss: must be a number or empty, got '1_0'"),
        (read_histories, EPOCHS + "1,2,,,x,a\n", "column loss: must be a number or empty, got 'x'"),
        (read_histories, EPOCHS + "1,2,,,,\n", "line 2, column run: must be a name, got ''"),
        (
            read_histories,
            EPOCHS + "1,2,,,,a\n1,2,,,,b\n1,2,,,,a\n",
            r"line 4, column step: must be above 2, that of run 'a' in line 2, got 2",
        ),
        (
            read_histories,
            EPOCHS + "3,2,,,,a\n2,3,,,,a\n",
            "line 3, column epoch: must be at least 3, that of run 'a' in line 2, got 2",
        ),
        (read_diagrams, DIAGRAMS + "0,val,after,0,1,1\n", "line 2, column split: must be train or test, got 'val'"),
        (read_diagrams, DIAGRAMS + "0,train,now,0,1,1\n", "line 2, column moment: must be before or after, got 'now'"),
        (
            read_diagrams,
            DIAGRAMS + "0,train,after,0,1.01,1\n",
            "column s_ap: must be a number from -1 to 1 or empty, got '1.01'",
        ),
        (
            read_diagrams,
            DIAGRAMS + "0,train,after,0,1,-2\n",
            "line 2, column s_an: must be a number from -1 to 1 or empty, got '-2'",
        ),
        (
            read_diagrams,
            DIAGRAMS + "0,train,after,5,1,1\n0,train,before,5,1,1\n0,test,after,5,1,1\n0,train,after,5,1,1\n",
            "line 5, column anchor: train anchor 5 after iteration 0 is already in line 2",
        ),
        (
            read_diagrams,
            DIAGRAMS + "0,train,before,1,1,1\n0,train,after,1,1,1\n0,train,after,2,1,1\n1,train,after,1,1,1\n",
            "line 4, column anchor: train anchor 2 exists only after iteration 0$",
        ),
        (
            read_groups,
            GROUPS + "EP,1,0,0.5\n",
            "line 2, column images_per_class: must be an integer from 2, got '1'",
        ),
        (read_groups, GROUPS + "EP,2,0,\n", "line 2, column recall_at_1: must be a number from 0 to 1, got ''"),
        (read_groups, GROUPS + "EP,2,0,nan\n", "line 2, column recall_at_1: must be a number from 0 to 1, got 'nan'"),
        (
            read_groups,
            GROUPS + "EP,2,0,0.5\nEP,2,1,0.5\nEP,2,0,0.5\n",
            "line 4, column seed: seed 0 of 'EP' with 2 images per class is already in line 2",
        ),
    ],
)
def test_read_malformed_table_names_line_and_column(tmp_path, read, text, message):
    path = write_table(tmp_path, text)
    with pytest.raises(ValueError, match=message) as raised:
        read(path)
    assert str(raised.value).startswith(str(path))


def test_read_histories_too_long_field_raises(tmp_path):
    with pytest.raises(ValueError, match="line 2: not CSV: field larger than"):
        read_histories(write_table(tmp_path, EPOCHS + "1," + "2" * 200_000 + ",,,,a\n"))


@pytest.mark.parametrize("read", [read_diagrams, read_histories, read_groups, read_embeddings])
def test_read_missing_file_raises_oserror(tmp_path, read):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


def test_read_histories_truncated_row_warns(tmp_path):
    path = write_table(tmp_path, EPOCHS + "1,10,0.5,,,SCT\n2,20,0.5,,,SC")
    with pytest.warns(UserWarning, match=r"table\.csv, line 3: truncated: it has no line end and is ignored"):
        found = read_histories(path)
    assert list(found) == ["SCT"]
    assert found["SCT"].step.tolist() == [10]


def test_read_diagrams_truncated_step_warns(tmp_path):
    whole = "".join(
        f"{step},train,{moment},{anchor},0.5,0.5\n"
        for step in (0, 4)
        for moment in ("before", "after")
        for anchor in range(3)
    )
    path = write_table(tmp_path, DIAGRAMS + whole.removesuffix("4,train,after,2,0.5,0.5\n"))
    with pytest.warns(
        UserWarning, match=r"line 10, column anchor: train anchor 2 exists only before iteration 4; .*ignored"
    ):
        found = read_diagrams(path)
    assert list(found.steps()) == [0]
    assert list(found.moments) == [(0, "train", "after"), (0, "train", "before")]
    only = write_table(tmp_path, DIAGRAMS + "4,train,before,1,1,1\n4,train,before,2,1,1\n4,train,after,1,1,1\n")
    with pytest.warns(UserWarning, match="ignored"), pytest.raises(ValueError, match="contains no complete step"):
        read_diagrams(only)


# embeddings.safetensors

pytest.importorskip("safetensors")
ROWS, LABELS = torch.arange(6.0).view(3, 2), torch.tensor([1, 0, 1])


def test_embeddings_save_and_read_round_trip(tmp_path):
    path = tmp_path / "embeddings.safetensors"
    save_embeddings(
        path, train=(ROWS.double().T.contiguous().T, LABELS.to(torch.uint8)), test=(ROWS[:1].half(), LABELS[:1])
    )
    found = read_embeddings(path)
    assert torch.equal(found.train_embeddings, ROWS)
    assert found.train_labels.dtype == torch.int64
    assert found.train_labels.tolist() == [1, 0, 1]
    assert found.test_embeddings.dtype == torch.float32
    assert found.test_embeddings.tolist() == [[0, 1]]
    before = path.read_bytes()
    save_embeddings(path, train=(ROWS, LABELS), test=(ROWS[:1], LABELS[:1]))
    assert path.read_bytes() == before, "the same file for the same numbers"
    save_embeddings(path, test=(ROWS, LABELS))
    assert read_embeddings(path).train_embeddings is None
    assert [file.name for file in tmp_path.iterdir()] == ["embeddings.safetensors"]


BAD_PAIRS = [
    ((ROWS, LABELS[:2]), ValueError, r"test_labels must be \[3\], one per row of test_embeddings, got \[2\]"),
    ((ROWS, LABELS[:, None]), ValueError, r"test_labels must be \[3\], one per row of test_embeddings, got \[3, 1\]"),
    ((ROWS[0], LABELS), ValueError, r"test_embeddings must be \[rows, D\] with rows, D >= 1, got \[2\]"),
    ((ROWS[:0], LABELS[:0]), ValueError, r"test_embeddings must be \[rows, D\] with rows, D >= 1, got \[0, 2\]"),
    ((ROWS.long(), LABELS), TypeError, "test_embeddings must be a floating-point tensor, got torch.int64"),
    ((ROWS, LABELS.float()), TypeError, "test_labels must be an integer tensor, got torch.float32"),
    ((ROWS / ROWS, LABELS), ValueError, "test_embeddings must be finite, got row 0"),
    (
        (ROWS[:, :1].contiguous(), LABELS),
        ValueError,
        r"test_embeddings must be \[M, D\] with the D = 2 of train_emb.*, got 1",
    ),
]


@pytest.mark.parametrize(
    ("pair", "error", "message"), [*BAD_PAIRS, ((None, LABELS), ValueError, "test_embeddings is missing")]
)
def test_save_embeddings_invalid_tensors_raise(tmp_path, pair, error, message):
    with pytest.raises(error, match=message):
        save_embeddings(tmp_path / "e.safetensors", train=(ROWS, LABELS), test=pair)
    with pytest.raises(TypeError, match="test_embeddings must be a floating-point tensor, got list"):
        save_embeddings(tmp_path / "e.safetensors", test=([[1.0]], LABELS))
    with pytest.raises(ValueError, match="train or test must be given, got None for both"):
        save_embeddings(tmp_path / "e.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("pair", "error", "message"), BAD_PAIRS)
def test_read_embeddings_malformed_tensors_raise(tmp_path, pair, error, message):
    from safetensors.torch import save_file

    path = tmp_path / "e.safetensors"
    rows, labels = pair
    save_file(
        {
            "train_embeddings": ROWS,
            "train_labels": LABELS,
            "test_embeddings": rows.clone(),
            "test_labels": labels.clone(),
        },
        path,
    )
    with pytest.raises(ValueError, match=message) as raised:
        read_embeddings(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"train_embeddings": ROWS}, "train_labels is missing"),
        ({"train_labels": LABELS}, "train_embeddings is missing"),
        ({"train_labels": LABELS, "labels": LABELS}, "tensors must be among train_embeddings, .*, got 'labels'"),
        ({}, "tensors must be among train_embeddings, .*, got none"),
        (None, "is not a safetensors file"),
    ],
)
def test_read_embeddings_other_file_raises(tmp_path, tensors, message):
    from safetensors.torch import save_file

    path = tmp_path / "e.safetensors"
    if tensors is None:
        path.write_text("not this")
    else:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    with pytest.raises(ValueError, match=message) as raised:
        read_embeddings(path)
    assert str(raised.value).startswith(str(path))

"""Arguments that loss modules refuse: None if it is no default, labels and margins that their dtypes cannot hold."""

import pytest
import torch

from hardmine import losses, mining
from hardmine.losses import HierarchicalTripletLoss


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("SCTLoss", "lam"),
        ("SCTLoss", "preset"),
        ("TripletLoss", "positive"),
        ("TripletLoss", "reduction"),
        ("GlobalLoss", "lam"),
        ("BatchAllTripletLoss", "squared"),
        ("BatchAllTripletLoss", "margin"),
        ("EPLoss", "temperature"),
        ("RatioTripletLoss", "similarity"),
    ],
)
def test_init_none_for_required_option_raises(name, option):
    with pytest.raises((TypeError, ValueError), match=rf"^{option} must be .*got None"):
        getattr(losses, name)(**{option: None})


def test_init_none_for_optional_option_equals_default():
    given = losses.TripletLoss(margin=None, duplicate_threshold=None)
    assert given.options == losses.TripletLoss().options


def test_htl_uint64_classes_beyond_int64_raise():
    labels = torch.tensor([2**64 - 1, 0], dtype=torch.uint64)
    with pytest.raises(ValueError, match=r"^classes must be below 2\^63, got 18446744073709551615$"):
        HierarchicalTripletLoss(classes=labels)
    with pytest.raises(ValueError, match=r"^labels must be below 2\^63, got 18446744073709551615$"):
        mining.class_distances(torch.randn(2, 3), labels)


def test_htl_margin_beyond_table_dtype_raises():
    with pytest.raises(ValueError, match=r"^margin must be a number, got 1e\+300, which is inf in float32$"):
        HierarchicalTripletLoss(classes=2, margin=1e300)
    loss = HierarchicalTripletLoss(classes=2).half()
    with pytest.raises(ValueError, match=r"^margin must be a number in the range of torch.float16, got 1000000.0$"):
        loss.set_margin(1e6)
    table = torch.full((2, 2), 1e6)
    with pytest.raises(ValueError, match=r"^margin must be finite, got inf at \[0, 0\]$"):
        loss.load_state_dict({"margin": table})
    assert loss.margin.isfinite().all()


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("TripletLoss", "return_selection"),
        ("SCTLoss", "return_count"),
        ("TupletLoss", "return_terms"),
        ("EPLoss", "return_count"),
        ("BatchAllTripletLoss", "return_counts"),
    ],
)
def test_module_call_flag_of_other_type_raises(name, flag):
    with pytest.raises(TypeError, match=rf"^{flag} must be True or False, got 'no'$"):
        getattr(losses, name)()(torch.eye(4), torch.tensor([0, 0, 1, 1]), **{flag: "no"})


def test_module_squared_of_other_type_raises():
    with pytest.raises(TypeError, match=r"^squared must be True or False, got 1$"):
        HierarchicalTripletLoss(classes=2, squared=1)


@pytest.mark.parametrize(
    ("name", "options", "option"),
    [
        ("BatchAllTripletLoss", {}, "margin"),
        ("TripletLoss", {"term": "hinge", "negative": "hardest"}, "margin"),
        ("SCTLoss", {}, "lam"),
        ("EPLoss", {}, "duplicate_threshold"),
        ("RatioTripletLoss", {}, "margin"),
        ("GlobalLoss", {}, "threshold"),
    ],
)
def test_module_number_beyond_float32_raises(name, options, option):
    with pytest.raises(ValueError, match=rf"^{option} must be a number.*, got 1e\+39, which is inf in float32$"):
        getattr(losses, name)(**options, **{option: 1e39})


def test_set_margin_number_beyond_float32_raises():
    with pytest.raises(ValueError, match=r"^margin must be a number, got 1e\+39, which is inf in float32$"):
        losses.BatchAllTripletLoss().set_margin(1e39)

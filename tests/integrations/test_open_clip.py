"""ClipLoss and SigLipLoss have the values and gradients of those of open_clip."""

import inspect
import math
import re
import warnings

import open_clip
import pytest
import torch
import torch.nn.functional as F

from hardmine.integrations import open_clip as integration
from integrations.st_cases import fused
from support.inputs import seeded
from support.ranks import run_ranks

NAMES = ["ClipLoss", "SigLipLoss"]


def features_of(count=9, dtype=torch.float64, seed=0):
    """Normalized image and text features, a scale and a bias, all with gradients."""
    generator = seeded(seed)
    image = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    text = image + torch.randn(count, 6, generator=generator, dtype=torch.float64)
    scale, bias = (torch.tensor(number, dtype=dtype, requires_grad=True) for number in (math.log(8.0), -3.0))
    return [x.to(dtype).requires_grad_() for x in (F.normalize(image), F.normalize(text))], scale, bias


def value_and_gradients(side, name, inputs, with_bias=True, **options):
    rows, log_scale, bias = inputs
    loss = getattr(side, name)(**options)
    given = [*rows, log_scale.exp()]
    found = loss(*given, bias if with_bias else None, output_dict=True)
    assert list(found) == ["contrastive_loss"]
    value = loss(*given, bias if with_bias else None)
    assert torch.equal(value, found["contrastive_loss"])
    leaves = [*rows, log_scale, *([bias] if with_bias else [])]
    return value.detach(), *torch.autograd.grad(value, leaves)


def assert_same_loss(name, inputs, tolerances=None, **options):
    with fused():
        found = value_and_gradients(integration, name, inputs, **options)
    expected = value_and_gradients(open_clip.loss, name, inputs, **options)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **(tolerances or {}))
    return found[0]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_open_clip(name, with_bias):
    for count in (1, 2, 9):
        loss = assert_same_loss(name, features_of(count), with_bias=with_bias)
        assert loss > 0 or (count == 1 and name == "ClipLoss")
        single = {"rtol": 1e-4, "atol": 1e-5}
        assert_same_loss(name, features_of(count, torch.float32), single, with_bias=with_bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_losses_of_half_precision_are_those_of_open_clip(name, dtype):
    assert assert_same_loss(name, features_of(dtype=dtype), {"rtol": 5e-2, "atol": 5e-2}).dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_losses_under_autocast_take_features_of_two_dtypes(name):
    (image, text), scale, bias = features_of(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), fused():
        found = getattr(integration, name)()(image, text.bfloat16(), scale.exp(), bias)
    assert found.dtype == torch.float32
    expected = getattr(open_clip.loss, name)()(image, text.bfloat16().float(), scale.exp(), bias)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_scales_are_numbers_or_tensors_of_one_element(name):
    (image, text), *_ = features_of()
    own, expected = (getattr(side, name)() for side in (integration, open_clip.loss))
    with fused():
        for scale, bias in ((5.0, -2.0), (torch.tensor([5.0]).double(), torch.tensor([-2.0]).double())):
            torch.testing.assert_close(own(image, text, scale, bias), expected(image, text, scale, bias))


RANKS = [
    *(("ClipLoss", {"local_loss": local, "gather_with_grad": grad}) for local in (0, 1) for grad in (0, 1)),
    *(("SigLipLoss", {"dist_impl": way}) for way in ("bidir", "shift", "reduce", "gather")),
]


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "options"), RANKS)
def test_losses_of_ranks_are_those_of_open_clip(name, options, ranks):
    def of_rank(rank):
        where = {"rank": rank, "world_size": ranks}
        return [
            value_and_gradients(side, name, features_of(seed=rank), **options, **where)
            for side in (integration, open_clip.loss)
        ]

    alone = value_and_gradients(integration, name, features_of())
    for own, expected in run_ranks(ranks, of_rank):
        torch.testing.assert_close(own, expected)
        assert own[0] > alone[0]


@pytest.mark.parametrize(
    ("name", "scale", "reason"),
    [
        ("ClipLoss", -2.0, "its logit_scale is -2.0"),
        ("ClipLoss", torch.linspace(1, 2, 9).double()[:, None], r"its logit_scale has the shape \[9, 1\]"),
        ("SigLipLoss", torch.linspace(1, 2, 9).double()[:, None], r"its logit_scale has the shape \[9, 1\]"),
    ],
)
def test_losses_without_op_are_those_of_open_clip_with_one_warning(name, scale, reason):
    (image, text), _, bias = features_of()
    own, expected = (getattr(side, name)() for side in (integration, open_clip.loss))
    with pytest.warns(UserWarning, match=f"{name} runs the code of open_clip itself: {reason}") as caught:
        found = own(image, text, scale, bias)
    assert caught[0].filename == __file__
    assert torch.equal(found, expected(image, text, scale, bias))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own(image, text, scale, bias)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("images", "texts"), [(12, 5), (5, 12)])
def test_unequal_numbers_of_images_and_texts_are_an_error_that_names_both_shapes(name, images, texts):
    message = f"text_features must be [B, D] = [{images}, 4], as image_features, got [{texts}, 4]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        getattr(integration, name)()(torch.randn(images, 4), torch.randn(texts, 4), torch.tensor(2.0), None)


@pytest.mark.parametrize("name", NAMES)
def test_features_that_are_not_finite_make_the_loss_nan(name):
    (image, text), scale, bias = features_of()
    image = image.detach().clone()
    image[0, 0] = torch.nan
    assert getattr(integration, name)()(image, text, scale, bias).isnan()


@pytest.mark.parametrize("name", NAMES)
def test_classes_have_signature_of_open_clip(name):
    own, parent = getattr(integration, name), getattr(open_clip.loss, name)
    assert issubclass(own, parent)
    assert inspect.signature(own.__init__) == inspect.signature(parent.__init__)
    assert list(inspect.signature(own.forward).parameters) == list(inspect.signature(parent.forward).parameters)

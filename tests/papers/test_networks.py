"""Embedding networks: standardized features, heads by hand, frozen backbones, and parameter groups."""

import math
import re

import pytest
import torch
from torch import nn

from network_cases import noise_images, tiny_backbone
from papers import networks
from papers.networks import EmbeddingHead, EmbeddingNet, EmbeddingNetwork, Standardize, parameter_groups
from support.inputs import seeded

# Standardized features


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("chunk_rows", [None, 7])
def test_standardize_matches_scikit_learn(dtype, chunk_rows, monkeypatch):
    scaler = pytest.importorskip("sklearn.preprocessing").StandardScaler()
    if chunk_rows:
        monkeypatch.setattr(networks.embedding, "_CHUNK_ROWS", chunk_rows)
    scales, offsets = torch.tensor([1.0, 1e-3, 1e3, 5.0]), torch.tensor([0.0, 1.0, -1e4, 1e5])
    features = (torch.randn(100, 4, generator=seeded(0)) * scales + offsets).to(dtype)
    expected = torch.from_numpy(scaler.fit_transform(features.double().numpy()))
    standardize = Standardize.of(features)
    assert standardize.mean.dtype == standardize.std.dtype == dtype
    torch.testing.assert_close(standardize.mean.double(), torch.from_numpy(scaler.mean_), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(standardize.std.double(), torch.from_numpy(scaler.scale_), rtol=1e-6, atol=0)
    torch.testing.assert_close(standardize(features).double(), expected, rtol=1e-2, atol=1e-2)


def test_standardize_constant_features_become_0():
    features = torch.randn(50, 3, generator=seeded(0))
    features[:, 1] = 0.1  # a constant whose mean of 50 values is not exactly 0.1
    result = Standardize.of(features)(features)
    assert result[:, 1].abs().max() < 1e-6
    torch.testing.assert_close(result[:, [0, 2]].std(0, correction=0), torch.ones(2))
    one = Standardize.of(features[:1])
    assert torch.equal(one(features[:1]), torch.zeros(1, 3))
    tiny_spread = torch.tensor([[1.0], [1.0 + 2**-23]])
    assert Standardize.of(tiny_spread)(tiny_spread).isfinite().all()
    smallest = torch.tensor([[0.0], [1e-45]])
    assert Standardize.of(smallest)(smallest).isfinite().all()


def test_standardize_state_dict_round_trip():
    features = torch.randn(20, 3, generator=seeded(0)) * 5 + 2
    standardize, other = Standardize.of(features), Standardize(torch.zeros(3), torch.ones(3))
    other.load_state_dict(standardize.state_dict())
    assert torch.equal(other(features), standardize(features))
    assert not list(standardize.parameters())


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.ones(3), "features must be floating [N, F] with N >= 1, got torch.float32 [3]"),
        (torch.ones(0, 3), "features must be floating [N, F] with N >= 1, got torch.float32 [0, 3]"),
        (torch.ones(2, 3).int(), "features must be floating [N, F] with N >= 1, got torch.int32 [2, 3]"),
        (torch.tensor([[1.0], [math.nan]]), "features must be finite"),
        (torch.tensor([[1.0], [math.inf]]), "features must be finite"),
    ],
)
def test_standardize_of_invalid_features_raise(features, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Standardize.of(features)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.0], [1.0, 1.0], "mean and std must be [F] each, got [1] and [2]"),
        ([[0.0]], [[1.0]], "mean and std must be [F] each, got [1, 1] and [1, 1]"),
        ([0.0], [0.0], "mean and std must be finite and std positive"),
        ([math.nan], [1.0], "mean and std must be finite and std positive"),
        ([0.0], [math.inf], "mean and std must be finite and std positive"),
    ],
)
def test_standardize_invalid_mean_or_std_raises(mean, std, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Standardize(torch.tensor(mean), torch.tensor(std))


# Heads


def test_embedding_head_one_layer_is_linear():
    features = torch.randn(5, 3, generator=seeded(0))
    head = EmbeddingHead(3, 2)
    weight, bias = head.parameters()
    torch.testing.assert_close(head(features), features @ weight.T + bias)
    assert head.embedding_dim == 2
    assert head(features).norm(dim=1).std() > 0.01, "the losses normalize"
    normalized_head = EmbeddingHead(3, 2, normalize=True)
    normalized_head.load_state_dict(head.state_dict())
    torch.testing.assert_close(normalized_head(features), head(features) / head(features).norm(dim=1, keepdim=True))


def test_embedding_head_two_layers_on_standardized_features():
    features = torch.randn(50, 3, generator=seeded(0)) * 7 + 3
    standardize = Standardize.of(features)
    head = EmbeddingHead(3, 2, hidden_dim=6, standardize=standardize)
    first, first_bias, last, last_bias = head.parameters()
    assert first.shape == (6, 3)
    hidden = (((features - features.mean(0)) / features.std(0, correction=0)) @ first.T + first_bias).relu()
    torch.testing.assert_close(head(features), hidden @ last.T + last_bias)


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ((0, 2), {}, ValueError, "feature_dim must be at least 1, got 0"),
        ((3, 0), {}, ValueError, "embedding_dim must be at least 1, got 0"),
        ((3, 2.5), {}, TypeError, "embedding_dim must be an integer, got float"),
        ((3, 2), {"hidden_dim": 0}, ValueError, "hidden_dim must be at least 1, got 0"),
        (
            (3, 2),
            {"standardize": Standardize(torch.zeros(4), torch.ones(4))},
            ValueError,
            "standardize must have feature_dim = 3 features, got 4",
        ),
    ],
)
def test_embedding_head_invalid_arguments_raise(given, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        EmbeddingHead(*given, **options)


# Networks


def test_embedding_network_applies_backbone_then_head():
    network = EmbeddingNetwork(tiny_backbone(), EmbeddingHead(4, 2)).eval()
    images = noise_images()
    torch.testing.assert_close(network(images), network.head(network.backbone(images)))
    assert network(images).shape == (3, 2)


def test_embedding_network_frozen_backbone_unchanged():
    """Weights and batch normalization statistics stay, also in training mode, while the head learns."""
    network = EmbeddingNetwork(tiny_backbone(), EmbeddingHead(4, 2), frozen=True).train()
    assert network.training
    assert network.head.training
    assert not any(module.training for module in network.backbone.modules())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(parameter_groups(network, 0.1), lr=0.1)
    network(noise_images()).sum().backward()
    optimizer.step()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"head.layers.0.weight", "head.layers.0.bias"}
    assert not network.eval().training


def test_embedding_network_unfrozen_backbone_learns():
    network = EmbeddingNetwork(tiny_backbone(), EmbeddingHead(4, 2)).train()
    assert network.backbone.training
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(parameter_groups(network, 0.1), lr=0.1)
    network(noise_images()).square().sum().backward()
    optimizer.step()
    assert not any(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_embedding_network_frozen_statistics_stay_while_learning():
    network = EmbeddingNetwork(tiny_backbone(), EmbeddingHead(4, 2), frozen_statistics=True)
    statistics = {
        "backbone.trunk.2.running_mean",
        "backbone.trunk.2.running_var",
        "backbone.trunk.2.num_batches_tracked",
    }
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(parameter_groups(network, 0.1), lr=0.1)
    for _ in range(2):  # as constructed, and after an evaluation
        assert network.backbone.training
        network(noise_images()).square().sum().backward()
        optimizer.step()
        assert {key for key, value in network.state_dict().items() if torch.equal(value, before[key])} == statistics
        network.eval()
        network.train()
    images = noise_images()
    torch.testing.assert_close(network(images), network.eval()(images))  # training mode uses the stored statistics


def test_embedding_network_keeps_modes_of_parts():
    network = EmbeddingNetwork(tiny_backbone().eval(), EmbeddingHead(4, 2).eval())
    assert not network.backbone.training
    assert not network.head.training


# Groups of parameters


def test_parameter_groups_head_has_higher_rate():
    network = EmbeddingNetwork(tiny_backbone(), EmbeddingHead(4, 2, hidden_dim=3))
    groups = parameter_groups(network, 0.02)
    assert [group["lr"] for group in groups] == pytest.approx([0.02, 0.2])
    for group, part in zip(groups, (network.backbone, network.head), strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in part.parameters()]
    assert [group["lr"] for group in parameter_groups(network, 0.02, last_layer_factor=3)] == pytest.approx(
        [0.02, 0.06]
    )


def test_parameter_groups_step_size_follows_rates():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.01))
    model(torch.ones(1, 1)).sum().backward()  # both gradients are 1
    optimizer.step()
    assert [p.item() for p in model.parameters()] == pytest.approx([0.99, 0.9])


def test_parameter_groups_scheduler_scales_both():
    model = EmbeddingNet(8, 2, 0.0, 1.0)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.1))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.5])


def test_parameter_groups_without_head_use_last_layer():
    model = EmbeddingNet(8, 2, 0.0, 1.0)
    first, last = parameter_groups(model, 0.1)
    assert [id(p) for p in last["params"]] == [id(p) for p in model.layers[-1].parameters()]
    assert len(first["params"]) == 8
    (only,) = parameter_groups(nn.Linear(2, 2), 0.1)
    assert only["lr"] == pytest.approx(1.0)


def test_parameter_groups_omit_frozen_parameters():
    network = EmbeddingNetwork(tiny_backbone(), EmbeddingHead(4, 2), frozen=True)
    (group,) = parameter_groups(network, 0.1)
    assert group["lr"] == pytest.approx(1.0)
    assert len(group["params"]) == 2
    network.head.requires_grad_(False)
    for nothing in (network, nn.ReLU()):
        with pytest.raises(ValueError, match=r"^model must have parameters that need gradients, got none$"):
            parameter_groups(nothing, 0.1)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((0.0,), ValueError, "lr must be a number > 0, got 0.0"),
        (("1",), TypeError, "lr must be a number, got str"),
        ((0.1, -1), ValueError, "last_layer_factor must be a number > 0, got -1"),
    ],
)
def test_parameter_groups_invalid_rates_raise(given, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        parameter_groups(nn.Linear(2, 2), *given)

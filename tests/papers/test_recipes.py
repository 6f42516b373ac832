"""Recipes: how they are read, and every refusal, with the recipe, key and value."""

import re
import sys

import pytest

from papers.recipes import LOSSES, RecipeError, load_experiment, load_recipe, make_loss, recipe_names
from papers.recipes.keys import markdown
from papers.recipes.recipe import FOLDER, with_defaults
from papers.recipes.sections import Schedule
from training_cases import TOML, recipe_of

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TOML)
    return path


def test_load_recipe_reads_all_sections(file):
    recipe = load_recipe(file)
    assert (recipe.name, recipe.title, recipe.seed) == ("tiny", "SHN", 3)
    assert (recipe.data.name, recipe.data.partial, recipe.network.embedding_dim) == ("digits", False, 8)
    assert (recipe.sampler.batch_size, recipe.sampler.small_classes) == (10, "leave_out")
    assert (recipe.loss.name, dict(recipe.loss.options)) == ("SHN", {})
    assert (recipe.optimizer.lr, recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.1, 0.5, 0.0)
    assert (recipe.schedule.epochs, recipe.schedule.milestones) == (3, (1,))
    assert recipe.evaluation.recall_at == (1, 2, 4, 8)


def test_load_recipe_overrides_accept_toml_and_bare_strings(file):
    words = ["loss.name=SCT", "loss.lam=0.1", "evaluation.recall_at=[1, 5]", "data.partial=true", "seed=7", 'title="a"']
    recipe = load_recipe(file, words)
    assert (recipe.loss.name, dict(recipe.loss.options)) == ("SCT", {"lam": 0.1})
    assert (recipe.evaluation.recall_at, recipe.data.partial, recipe.seed, recipe.title) == ((1, 5), True, 7, "a")
    assert load_recipe(file, ["optimizer.lr=1"]).optimizer.lr == 1.0
    assert isinstance(load_recipe(file, ["optimizer.lr=1"]).optimizer.lr, float)


def test_load_recipe_other_loss_or_sampler_keeps_shared_options(file):
    recipe = load_recipe(file, ["loss.temperature=0.2", "loss.semihard_fallback=hardest"])
    assert dict(recipe.loss.options) == {"temperature": 0.2, "semihard_fallback": "hardest"}
    file.write_text(TOML.replace('loss.name = "SHN"', 'loss = { name = "SCT", lam = 0.5, temperature = 0.2 }'))
    assert dict(load_recipe(file, ["loss.name=EP"]).loss.options) == {"temperature": 0.2}
    words = ["sampler.classes_per_anchor=2", "sampler.anchors_per_batch=2", "sampler.kind=anchor_neighbor"]
    assert load_recipe(file, words).sampler.images_per_class == 2


def test_recipe_as_dict_includes_defaults(file):
    assert load_recipe(file, ["optimizer.weight_decay=0"]).as_dict() == load_recipe(file).as_dict()
    assert load_recipe(file, ["optimizer.weight_decay=1e-4"]).as_dict() != load_recipe(file).as_dict()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimisre.lr=1",
            "tiny: unknown key optimisre = {lr} (did you mean optimizer?); the keys of a recipe are data, network,",
        ),
        (
            "optimizer.lrr=1",
            "tiny: unknown key optimizer.lrr = 1 (did you mean lr?); the keys of [optimizer] are lr, name,",
        ),
        ("optimizer.lr=0", "tiny: optimizer.lr must be a number above 0, got 0"),
        ("optimizer.lr=inf", "tiny: optimizer.lr must be a number above 0, got inf"),
        ("optimizer.lr=fast", "tiny: optimizer.lr must be a number above 0, got 'fast'"),
        ("optimizer.lr=true", "tiny: optimizer.lr must be a number above 0, got True"),
        ("optimizer.momentum=1.5", "tiny: optimizer.momentum must be a number from 0 up to 1, got 1.5"),
        ("optimizer.name=sgdm", "tiny: optimizer.name must be one of adam, sgd, got 'sgdm'"),
        ("schedule.epochs=2.5", "tiny: schedule.epochs must be an integer from 1, got 2.5"),
        ("schedule.epochs=0", "tiny: schedule.epochs must be an integer from 1, got 0"),
        ("schedule.milestones=3", "tiny: schedule.milestones must be a list, each item an integer from 1"),
        ("schedule.milestones=[1, 0]", "tiny: schedule.milestones must be a list, each item an integer"),
        ("schedule.milestones=[2, 1]", "tiny: schedule.milestones must be ascending, got [2, 1]"),
        ("schedule.every=3", "tiny: schedule.milestones and schedule.every exclude each other, got both"),
        ("data.partial=1", "tiny: data.partial must be true or false, got 1"),
        (
            "data.name=digit",
            "tiny: data.name must be one of cars, cub, digits, folder, hotels, in_shop, omniglot,",
        ),
        ("data.name=cub", "tiny: network.backbone must be convnet4 if and only if data.name is digits or omniglot"),
        (
            "data={name='cub'}",
            "tiny: network.backbone must be convnet4 if and only if data.name is digits or omniglot",
        ),
        ("data.features=a.npy", "tiny: network.frozen must be true with data.features, got false"),
        ("data.crop=300", "tiny: data.crop must be at most data.size = 256, got 300"),
        ("data=3", "tiny: data must be a table, got 3"),
        ("network.frozen=true", "tiny: network.frozen must be false with convnet4, because its weights are random"),
        (
            "network.frozen_statistics=true",
            "tiny: network.frozen_statistics must be false with network.backbone = 'convnet4'",
        ),
        ("sampler.kind=random", "tiny: sampler.kind must be one of class_balanced, anchor_neighbor, triplets, got"),
        ("sampler=1", "tiny: sampler must be a table, got 1"),
        ("sampler={}", "tiny: sampler.kind is missing: it must be one of class_balanced, anchor_neighbor, triplets"),
        ("sampler.kind=3", "tiny: sampler.kind must be one of class_balanced, anchor_neighbor, triplets, got 3"),
        ("optimizer.lr=nan", "tiny: optimizer.lr must be a number above 0, got nan"),
        ("data.features=''", "tiny: data.features must be a string, got ''"),
        ("data=7 - at `$.x`", "tiny: data must be a table, got '7 - at `$.x`'"),
        ("data.name=- at `$.x`", "online_products, got '- at `$.x`'"),
        (
            "sampler.image_per_class=4",
            "tiny: unknown key sampler.image_per_class = 4 (did you mean images_per_class?);",
        ),
        ("sampler.kind=anchor_neighbor", "tiny: sampler.anchors_per_batch is missing: it must be an integer from"),
        ("sampler.images_per_class=1", "tiny: sampler.images_per_class must be an integer from 2, got 1"),
        ("sampler.kind=triplets", "tiny: loss.name must be SmartTriplet with sampler.kind = 'triplets', got 'SHN'"),
        ("loss.name=SmartTriplet", "tiny: loss.positive and loss.negative must select the triplets of a batch"),
        ("loss.name=shn", "tiny: loss.name must be one of SCT, HN, SHN,"),
        (
            "loss.temprature=1",
            "tiny: unknown key loss.temprature = 1 (did you mean temperature?); the keys of [loss] are",
        ),
        (
            "loss.temperature=0",
            "tiny: [loss] SHN: temperature must be a number from 1e-30 to 1e+30, got 0 (loss.temperature = 0)",
        ),
        ("loss.temperature=x", "tiny: [loss] SHN: temperature must be a number, got str (loss.temperature = 'x')"),
        ("loss.negative=hardest", "tiny: unknown key loss.negative = 'hardest'"),
        ("loss.generator=3", "tiny: unknown key loss.generator = 3"),
        ("loss.group=x", "tiny: unknown key loss.group = 'x'"),
        (
            "loss.reduction=none",
            "tiny: [loss] SHN: reduction must be one that gives a scalar to train on, got 'none' (loss.reduction = 'no",
        ),
        (
            "loss.temperature=" + 2000 * "[" + 2000 * "]",
            "tiny.toml: tables and lists, also of overrides, are nested too deeply",
        ),
        ("seed=-1", "tiny: seed must be an integer from 0 up to 2147483647, got -1"),
        ("seed=1.0", "tiny: seed must be an integer from 0 up to 2147483647, got 1.0"),
        ('title=" "', "tiny: title must be one line of text, got ' '"),
        ("evaluation.recall_at=[0]", "tiny: evaluation.recall_at must be a list, each item an integer"),
        ("seed.x=1", "tiny: seed.x = 1: seed is a value, not a section"),
        ("lr", "tiny: an override must be section.key=value, got 'lr'"),
        ("=1", "tiny: an override must be section.key=value, got '=1'"),
    ],
)
def test_load_recipe_invalid_value_names_key(file, override, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(file, [override])


@pytest.mark.parametrize("weight", [-1, -1e-9, float("inf")])
def test_load_recipe_negative_loss_weight_raises(weight):
    with pytest.raises(RecipeError, match=rf"\[loss\] SCT: lam must be .* number.*, got .* \(loss\.lam = {weight}\)"):
        recipe_of(loss={"name": "SCT", "lam": weight})
    smart = {"name": "SmartTriplet", "positive": "random", "negative": "semihard", "global_lam": weight}
    with pytest.raises(RecipeError, match=rf"SmartTriplet: global_lam must be .* \(loss\.global_lam = {weight}\)"):
        recipe_of(loss=smart)
    assert recipe_of(loss={"name": "SCT", "lam": 0}).loss.options["lam"] == 0


def test_load_recipe_anchor_neighbor_needs_two_images_per_class():
    sampler = {"kind": "anchor_neighbor", "anchors_per_batch": 2, "classes_per_anchor": 2, "images_per_class": 1}
    with pytest.raises(RecipeError, match=r"sampler\.images_per_class must be an integer from 2, got 1"):
        recipe_of(sampler=sampler)


@pytest.mark.parametrize("section", ["data", "network", "sampler", "loss", "optimizer", "schedule"])
def test_load_recipe_missing_section_raises(file, section):
    file.write_text("\n".join(line for line in TOML.splitlines() if not line.startswith(section)))
    with pytest.raises(RecipeError, match=re.escape(f"tiny: the section [{section}] is missing")):
        load_recipe(file)


def test_load_recipe_invalid_file_raises(tmp_path, file):
    with pytest.raises(FileNotFoundError, match=r"one of epshn-cars, .*sct-cub.*, got 'sct-birds'"):
        load_recipe("sct-birds")
    file.write_text("seed = = 3")
    with pytest.raises(RecipeError, match=r"tiny\.toml must be TOML: "):
        load_recipe(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"tiny\.toml must be TOML: "):
        load_recipe(file)


@pytest.mark.parametrize("value", [2000 * "[" + 2000 * "]", 2000 * "{a=" + "1" + 2000 * "}"])
@pytest.mark.parametrize("load", [load_recipe, load_experiment])
def test_load_recipe_deeply_nested_file_raises(file, load, value):
    file.write_text(f"{TOML}[experiment]\nclaim = {value}\n")
    with pytest.raises(RecipeError, match=r"tiny\.toml: tables and lists, also of overrides, are nested too deeply"):
        load(file)


@pytest.mark.parametrize("name", LOSSES)
def test_load_recipe_loss_without_scalar_raises(name):
    with pytest.raises(RecipeError, match=r"reduction must be one that gives a scalar|unknown key loss\.reduction"):
        recipe_of(loss={"name": name, "reduction": "none"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kappa": [2.0], "window": 4},
            "sampler.window must be omitted with sampler.kappa, which replaces the controller",
        ),
        ({"kappa": [2.0], "target_error": 0.6}, "sampler.target_error must be omitted with sampler.kappa"),
        ({"kappa": [-1.0]}, "sampler.kappa must be a list, each item a number from 0, got"),
        ({"min_gain": 5.0}, "sampler.min_gain must be at most sampler.max_gain = 4, got 5"),
        ({"soft_kappa": 1.0}, "sampler.soft_kappa must be a number above 1, got 1.0"),
    ],
)
def test_load_recipe_wrong_kappa_raises(options, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        recipe_of(sampler={"kind": "triplets", **options}, loss={"name": "SmartTriplet"})


def test_load_recipe_selection_with_mined_triplets_raises():
    values = {"sampler": {"kind": "triplets"}, "loss": {"name": "SmartTriplet", "positive": "random"}}
    with pytest.raises(RecipeError, match=r"loss\.positive must be omitted with sampler\.kind = 'triplets'"):
        recipe_of(**values)


def test_load_recipe_unknown_backbone_raises():
    with pytest.raises(RecipeError, match=r"tiny: network\.backbone: name must be one of resnet18, .*, got 'resnet19'"):
        recipe_of(data={"name": "cub"}, network={"backbone": "resnet19"})


def test_load_recipe_frozen_random_backbone_raises():
    frozen = {"backbone": "resnet18", "weights": "random", "frozen": True}
    with pytest.raises(RecipeError, match=r"network\.weights must be trained weights with network\.frozen, got 'ra"):
        recipe_of(data={"name": "cub"}, network=frozen)


def test_with_defaults_adds_defaults_of_newer_keys():
    settings = recipe_of().as_dict()
    older = {**settings, "network": dict(settings["network"]), "sampler": dict(settings["sampler"])}
    del older["network"]["frozen_statistics"], older["sampler"]["small_classes"]
    assert with_defaults(older) == with_defaults(settings) == settings
    del older["tree"]
    assert with_defaults(older) == settings
    del older["network"]["backbone"]  # this key has no default, so the settings are no recipe
    assert with_defaults(older) == older
    for broken in ({}, {"sampler": 1}, {"sampler": {"kind": "other"}}, {"network": None}):
        assert with_defaults(broken) == broken


def test_readme_has_table_of_all_keys():
    """Written by `python -m papers.recipes.keys`."""
    table = markdown()
    assert table in (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert "| `batch_size` | an integer from 2 | `128` | Images per batch. |\n" in table
    settings = recipe_of().as_dict()
    for name in ("data", "network", "sampler", "tree", "optimizer", "schedule", "evaluation"):
        for key in settings[name].keys() - {"kind"}:
            assert f"| `{key}` | " in table


def test_schedule_lr_factor_follows_milestones():
    steps = Schedule(40, milestones=(20, 30), factor=0.1)
    assert [steps.lr_factor(epoch) for epoch in (0, 19, 20, 29)] == [1, 1, 0.1, 0.1]
    assert steps.lr_factor(30) == pytest.approx(0.01)
    halves = Schedule(20, every=3, factor=0.5)
    assert [halves.lr_factor(epoch) for epoch in (0, 2, 3, 5, 6)] == [1, 1, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "SmartTriplet"])
def test_make_loss_accepts_every_name(name):
    assert type(make_loss(recipe_of(loss={"name": name}).loss, classes=3)).__name__ in (
        name.replace("-", "").replace("HTL", "HierarchicalTriplet") + "Loss",
        "NPairLoss",
    )


def test_included_recipes_load():
    names = recipe_names()
    papers = [name for name in names if "/" not in name]
    assert len(papers) == 5 + 5 + 2 + 4
    for name in papers:
        recipe = load_recipe(name)
        assert name == recipe.name
        paper, _, dataset = name.rpartition("-")
        assert recipe.data.name == {"sop": "online_products", "inshop": "in_shop"}.get(dataset, dataset)
        assert recipe.loss.name == {"sct": "SCT", "epshn": "EPSHN", "smart-mining": "SmartTriplet", "htl": "HTL"}[paper]
        assert not recipe.data.partial
    for name in set(names) - set(papers):
        assert load_experiment(name.removeprefix("experiments/")).runs


def test_included_recipes_match_published_settings():
    """METHODS section 10, copied by hand."""
    sct, hotels = load_recipe("sct-cars"), load_recipe("sct-hotels")
    assert (sct.sampler.batch_size, sct.sampler.images_per_class, sct.loss.options["lam"]) == (128, 2, 1.0)
    assert (hotels.sampler.batch_size, hotels.network.embedding_dim, hotels.loss.options["lam"]) == (512, 256, 0.1)
    cub, shop = load_recipe("epshn-cub"), load_recipe("epshn-inshop")
    assert (cub.network.embedding_dim, load_recipe("epshn-hotels").network.embedding_dim) == (512, 256)
    assert (cub.optimizer.lr, cub.sampler.images_per_class, cub.loss.options["temperature"]) == (1e-4, 16, 0.1)
    assert (shop.optimizer.lr, shop.sampler.images_per_class, shop.schedule.milestones) == (5e-4, 4, (20, 30))
    smart = load_recipe("smart-mining-cub")
    assert (smart.optimizer.lr, smart.optimizer.weight_decay, smart.optimizer.last_layer_factor) == (0.1, 5e-4, 10)
    assert (smart.schedule.epochs, smart.schedule.every, smart.schedule.factor) == (20, 3, 0.5)
    cub, shop = load_recipe("htl-cub"), load_recipe("htl-inshop")
    assert (cub.schedule.epochs, cub.schedule.every, cub.network.embedding_dim, cub.tree.levels) == (10, 3, 512, 16)
    assert (shop.schedule.epochs, shop.schedule.every, shop.network.embedding_dim, shop.data.crop) == (30, 10, 128, 224)
    for htl, images in ((cub, 50), (shop, 480)):
        sampler = htl.sampler
        assert sampler.anchors_per_batch * sampler.classes_per_anchor * sampler.images_per_class == images

"""Fusions by recipes of one's own: what is taken, what it becomes, and what a recipe cannot be."""

import subprocess
import sys

import numpy as np
import pytest

from tfrecords_builder.plan import plan
from tfrecords_builder.show import describe
from tfrecords_builder.writer import write
from tfrs import registry
from tfrs.datasets.fusion import SATIMNET, Fusion
from tfrs.errors import UserError
from tfrs.labels import BIGEARTHNET_43, EUROSAT
from tfrs.recipe import parse
from tfrs.records import Records

HEAD = """
scheme = "eurosat"
size = 64
mix_levels = true
bands.s2 = ["B08", "B02", "B8A"]
"""
WATER = """
[[take]]
records = "eurosat"
classes = ["River", "SeaLake"]
into = "SeaLake"
count = 7
"""
CROPS = """
[[take]]
records = "eurosat"
classes = ["AnnualCrop"]
"""
FOREST = """
[[take]]
records = "bigearthnet"
field = "labels_43"
classes = ["Broad-leaved forest", "Coniferous forest", "Mixed forest"]
into = "Forest"
count = 1000
"""
URBAN = FOREST.replace('"Broad-leaved forest", "Coniferous forest", "Mixed forest"', '"Discontinuous urban fabric"')
URBAN = URBAN.replace('"Forest"', '"Residential"')


@pytest.fixture(scope="module")
def root(eurosat_tree, tmp_path_factory):
    """Records of 40 EuroSAT and 12 BigEarthNet patches."""
    folder = tmp_path_factory.mktemp("records")
    for name, source in (("eurosat", eurosat_tree[0]), ("bigearthnet", folder / "data")):
        dataset = registry.dataset(name)()
        if name == "bigearthnet":
            dataset.synthesize(source, 12, 0)
        dataset = dataset.at(source)
        write(dataset, source, folder, plan(dataset, source), options={"simulated": True} if name == "bigearthnet" else {})
    return folder


@pytest.fixture
def fusion(tmp_path):
    def made(text):
        (tmp_path / "recipe.toml").write_text(text)
        return Fusion(recipe=str(tmp_path / "recipe.toml")).at(tmp_path)

    return made


def samples(root, name):
    records = Records(root / name)
    return {sample["key"]: sample | {"split": s} for s in records.manifest["splits"] for sample in records.samples(s)}


def read(dataset, root):
    return {key: dataset.read(root, key) | {"split": s} for s in dataset.splits for key in dataset.index(root, s)}


def classes_43(sample):
    return {BIGEARTHNET_43.classes[i] for i in sample["labels_43"]}


def test_patches_and_labels_are_those_of_the_recipe(root, fusion):
    found, eurosat, bigearthnet = (
        read(fusion(HEAD + WATER + CROPS + FOREST), root),
        *(samples(root, n) for n in ("eurosat", "bigearthnet")),
    )
    expected = {key for key in eurosat if key.startswith("AnnualCrop")}
    expected |= {
        key for key, s in bigearthnet.items() if any("forest" in name.lower() and "Agro" not in name for name in classes_43(s))
    }
    water = found.keys() - expected
    assert found.keys() >= expected and len(water) == 7 and all(key.startswith(("River", "SeaLake")) for key in water)
    assert any(key.startswith("River") for key in water)
    for key, sample in found.items():
        source = eurosat.get(key) or bigearthnet[key]
        into = "SeaLake" if key in water else "AnnualCrop" if key in eurosat else "Forest"
        assert EUROSAT.classes[sample["label"]] == into and sample["split"] == source["split"]
        assert sample["source"] == ("eurosat" if key in eurosat else "bigearthnet") and sample["crs"] == source["crs"]


def test_bands_are_taken_by_name(root, fusion):
    """EuroSAT's files have B8A last; same size, same pixels."""
    eurosat = samples(root, "eurosat")
    for key, sample in read(fusion(HEAD + WATER), root).items():
        np.testing.assert_array_equal(sample["s2"], eurosat[key]["s2"][[7, 1, 12]])
        np.testing.assert_array_equal(sample["transform"], eurosat[key]["transform"])


def test_larger_patches_are_resampled(root, fusion):
    """Against the triangle filter of NumPy, as wide as two pixels of the result; the ground stays the same."""
    bigearthnet = samples(root, "bigearthnet")
    found = read(fusion(HEAD + FOREST), root)
    step = 120 / 64
    weights = np.maximum(0, 1 - np.abs((np.arange(64)[:, None] + 0.5) * step - (np.arange(120) + 0.5)) / step)
    weights /= weights.sum(1, keepdims=True)
    for key, sample in found.items():
        source = bigearthnet[key]["s2"][[7, 1, 8]].astype(float)
        np.testing.assert_allclose(sample["s2"], weights @ source @ weights.T, atol=1.01)
        a, b, c, d, e, f = bigearthnet[key]["transform"]
        np.testing.assert_allclose(sample["transform"], [a * step, b, c, d, e * step, f])
    assert found


def test_a_patch_is_taken_once_by_the_first_that_means_it(root, fusion):
    both = {k for k, s in samples(root, "bigearthnet").items() if {"Discontinuous urban fabric"} < classes_43(s)}
    first, second = (read(fusion(HEAD + takes), root) for takes in (FOREST + URBAN, URBAN + FOREST))
    assert first.keys() == second.keys()
    changed = {key for key in first if first[key]["label"] != second[key]["label"]}
    assert changed and changed <= both


def test_choice_is_drawn_by_the_seed_of_the_recipe(root, fusion):
    def keys(seed):
        return set(read(fusion(f"seed = {seed}\n{HEAD}{WATER}"), root))

    assert keys(1) == keys(1) != keys(2)


def test_what_is_short_is_told(root, fusion):
    dataset = fusion(HEAD + WATER + FOREST)
    count = sum(s["source"] == "bigearthnet" for s in read(dataset, root).values())
    water, forest = dataset.report(root)
    assert water == "took 7 of 20 patches: River or SeaLake of eurosat -> SeaLake"
    assert forest.startswith(f"took {count} of {count} patches") and forest.endswith(f"{1000 - count} short of 1000")


def test_recipe_of_the_paper():
    """Syrris et al. 2020, section 3: 1000 each to SeaLake, 500 each to Residential, 1000 to AnnualCrop and to Forest."""
    rules = parse(SATIMNET.read_text(), SATIMNET.name)
    everything, *takes = rules.take
    assert (everything.records, everything.classes, everything.count, rules.size) == ("eurosat", (), 0, 64)
    assert [(len(take.classes), take.into, take.count) for take in takes] == [
        *[(1, "SeaLake", 1000)] * 2,
        *[(1, "Residential", 500)] * 2,
        (1, "AnnualCrop", 1000),
        (3, "Forest", 1000),
    ]
    assert {name for take in takes for name in take.classes} <= set(BIGEARTHNET_43.classes) and rules.mix_levels
    assert rules.resampling == "bilinear" and "B10" not in rules.bands["s2"] and len(rules.bands["s2"]) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD.replace('"B8A"', '"B8A", "B10"') + WATER + FOREST,
            "has no s2 B10, which .*recipe.toml asks for; take it out of its",
        ),
        (HEAD.replace("mix_levels = true", "") + WATER + FOREST, "eurosat L1C, bigearthnet L2A.*add mix_levels = true"),
        (HEAD + WATER.replace("River", "Rivers"), "class of eurosat in .*'Rivers'. Did you mean 'River'"),
        (HEAD + WATER.replace('into = "SeaLake"', 'into = "Lake"'), "class of eurosat in .*'Lake'"),
        (HEAD + FOREST.replace('into = "Forest"', ""), "several classes of labels_43; add into"),
        (HEAD + FOREST.replace("labels_43", "label"), "unknown field of .*'label'.*labels_43"),
        (HEAD + WATER.replace("count = 7", 'count = "7"'), "take 1: count = '7' is no int"),
        (HEAD + WATER.replace("count", "counts"), "unknown entry in .*'counts'. Did you mean 'count'"),
        (HEAD + WATER.replace('records = "eurosat"', ""), "take 1: no records"),
        (HEAD + WATER.replace("7", "-1"), "count is -1"),
        (HEAD.replace('"B02"', '"B2"') + WATER, "unknown band of s2 in .*'B2'. Did you mean"),
        (HEAD.replace('"B02"', '"B08"') + WATER, "give each once"),
        (HEAD.replace("eurosat", "eurosad") + WATER, "unknown scheme in .*'eurosad'"),
        (HEAD + 'resampling = "linear"', "nothing to take"),
        ('resampling = "linear"\n' + HEAD + WATER, "unknown resampling"),
        (HEAD + "scheme", "not TOML"),
        (HEAD + WATER.replace('"eurosat"', '"sen12ms"'), "no fusion patch found .*records of sen12ms"),
    ],
)
def test_recipes_that_cannot_be_followed(root, fusion, text, message):
    with pytest.raises(UserError, match=message):
        fusion(text).index(root, "train")


def test_records_tell_what_was_taken(root, fusion, tmp_path):
    """As the command said it; and that some of it is simulated, as a source is."""
    for text, simulated in ((HEAD + WATER + FOREST, "yes"), (HEAD + WATER, "no")):
        dataset = fusion(text)
        out = tmp_path / simulated
        command = [sys.executable, "-m", "tfrecords_builder", "--dataset=fusion", f"--input={root}", f"--output={out}"]
        done = subprocess.run([*command, f"--recipe={dataset.recipe}"], capture_output=True, text=True, check=True)
        shown = describe(Records(out / "fusion"))
        assert f"  simulated: {simulated}\n" in shown
        for line in dataset.report(root):
            assert f"{line}\n" in done.stdout and f"  {line}\n" in shown


def test_manifest_keeps_the_recipe(root, fusion, tmp_path):
    """Another text in the same file is another build."""
    dataset = fusion(HEAD + WATER)
    records = write(dataset, root, tmp_path / "out", plan(dataset, root))
    assert records.manifest["spec"]["content"] == HEAD + WATER
    other = fusion(HEAD + WATER.replace("7", "8"))
    with pytest.raises(UserError, match="holds other records"):
        write(other, root, tmp_path / "out", plan(other, root))

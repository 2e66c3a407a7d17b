import ast
import importlib.util
import subprocess
import sys

import pytest

from tfrs import registry
from tfrs.datasets.base import Dataset
from tfrs.errors import UserError


@pytest.mark.parametrize("name", registry.DATASETS)
def test_data_sets(name):
    found = registry.dataset(name)
    assert issubclass(found, Dataset)
    assert found.name == name


def test_names_of_the_contract():
    assert {"sen12ms", "eurosat", "eurosat_rgb"} <= set(registry.DATASETS)
    assert {"resnet50", "densenet121"} <= set(registry.MODELS)
    assert {"unet_vgg16", "unet_wenger", "pspnet_resnet50", "deeplabv3plus_resnet50"} <= set(registry.SEGMENTERS)


@pytest.mark.parametrize("entry", sorted({*registry.MODELS.values(), *registry.SEGMENTERS.values()}))
def test_models_are_functions_with_a_docstring(entry):
    """Read, not imported: Keras takes seconds."""
    module, attribute = entry.split(":")
    with open(importlib.util.find_spec(module).origin) as file:
        defined = {node.name: node for node in ast.parse(file.read()).body if isinstance(node, ast.FunctionDef)}
    assert ast.get_docstring(defined[attribute])


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (registry.dataset, "sen12m", r"^unknown data set 'sen12m'\. Did you mean 'sen12ms'\? Known: sen12ms, eurosat, "),
        (registry.dataset, "EuroSAT_rgb", r"Did you mean 'eurosat_rgb'\?"),
        (registry.dataset, "landsat5000", r"^unknown data set 'landsat5000'\. Known: sen12ms"),
        (registry.model, "resnet5", r"^unknown model 'resnet5'\. Did you mean 'resnet50'\?"),
        (registry.segmenter, "unet_vg16", r"^unknown model 'unet_vg16'\. Did you mean 'unet_vgg16'\?"),
        (registry.segmenter, "deeplab_resnet50", r"Did you mean 'deeplabv3plus_resnet50'\?"),
        (
            registry.segmenter,
            "fpn_seresnet18",
            r"^fpn_seresnet18: seresnet18 .* Lambda layers cannot .* Encoders: vgg16, vgg19",
        ),
        (
            registry.segmenter,
            "unet_efficientnetb3",
            r"efficientnetb3 cannot be used, its activation is known to Keras only where",
        ),
        (registry.segmenter, "linknet_inceptionv3", r"inceptionv3 cannot be used, its layers have no names of their own"),
        (registry.model, "", r"^unknown model ''\. Known: "),
    ],
)
def test_unknown_names(find, name, message):
    with pytest.raises(UserError, match=message):
        find(name)


def test_listing_imports_nothing_heavy():
    heavy = "{'numpy', 'rasterio', 'tensorflow', 'keras'}"
    command = f"import sys; from tfrs import registry; assert registry.DATASETS; sys.exit(str({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert result.stderr == "set()\n"


def test_data_sets_do_not_import_tensorflow():
    """Every worker process of a build imports one."""
    load = "; ".join(f"registry.dataset({name!r})" for name in registry.DATASETS)
    command = f"import sys; from tfrs import registry; {load}; sys.exit(str('tensorflow' in sys.modules))"
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert result.stderr == "False\n"

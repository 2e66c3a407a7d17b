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


@pytest.mark.parametrize("name", registry.MODELS)
def test_models_are_functions_with_a_docstring(name):
    """Read, not imported: Keras takes seconds."""
    module, attribute = registry.MODELS[name].split(":")
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

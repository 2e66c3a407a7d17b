"""The classes of a map for programs that show it: names in GDAL's sidecar file, names and colours as a style of QGIS."""

from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr


def write(path: Path, place: Callable[[Path], Path], classes: Sequence[dict]) -> None:
    """`<map>.aux.xml`, from which GDAL takes the category names, and `<map without suffix>.qml`, which QGIS applies by itself.

    Args:
        path: The map; its values are the classes' numbers, 0: no data.
        place: Name to write a file under, by its own.
        classes: Entries of a card: name, number and colour of each class.
    """
    names = {entry["number"]: entry["name"] for entry in classes} | {0: "no data"}
    categories = "\n".join(f"      <Category>{escape(names.get(n, ''))}</Category>" for n in range(max(names) + 1))
    place(path.with_name(f"{path.name}.aux.xml")).write_text(
        f"""<PAMDataset>
  <PAMRasterBand band="1">
    <CategoryNames>
{categories}
    </CategoryNames>
  </PAMRasterBand>
</PAMDataset>
""",
    )
    entries = "\n".join(
        f'        <paletteEntry value="{row["number"]}" color="{row["color"]}" label={quoteattr(row["name"])} alpha="255"/>'
        for row in classes
    )
    place(path.with_suffix(".qml")).write_text(
        f"""<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.0.0" styleCategories="AllStyleCategories">
  <pipe>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1">
      <colorPalette>
{entries}
      </colorPalette>
    </rasterrenderer>
  </pipe>
</qgis>
""",
    )

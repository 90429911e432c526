"""The style part of QGIS layers: colour ramps of raster and mesh layers."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as ET

from fluxgrid.output.ramps import Scale

UNIT_SUFFIX = " g C m⁻² d⁻¹"
"""Unit of fluxes in legends."""
ANNUAL_SUFFIX = " g C m⁻²"
"""Unit of sums over a calendar year in legends."""


def add_raster_style(layer: ET.Element, scale: Scale, band: int, unit: str = UNIT_SUFFIX) -> None:
    """Add the renderer of a raster layer.

    Parameters
    ----------
    layer : Element
        ``maplayer`` to add to.
    scale : Scale
        Colours and their values.
    band : int
        Band shown when the temporal controller is off, from 1.
    unit : str
        Suffix of the numbers in the legend.
    """
    pipe = ET.SubElement(layer, "pipe")
    attributes = {
        "type": "singlebandpseudocolor",
        "band": str(band),
        "alphaBand": "-1",
        "opacity": "1",
        "classificationMin": f"{scale.low:g}",
        "classificationMax": f"{scale.high:g}",
    }
    renderer = ET.SubElement(pipe, "rasterrenderer", attributes)
    # "None": the range is ours and is not recomputed from whatever part is on the screen.
    ET.SubElement(ET.SubElement(renderer, "minMaxOrigin"), "limits").text = "None"
    _add_shader(ET.SubElement(renderer, "rastershader"), scale, unit)
    ET.SubElement(layer, "blendMode").text = "0"


def add_mesh_style(layer: ET.Element, scales: Mapping[int, Scale], active: int) -> None:
    """Add the renderer of a mesh layer.

    Parameters
    ----------
    layer : Element
        ``maplayer`` to add to.
    scales : mapping of int to Scale
        Colours of each dataset group, by its index.
    active : int
        The group that is shown.
    """
    settings = ET.SubElement(layer, "mesh-renderer-settings")
    ET.SubElement(settings, "active-dataset-group", scalar=str(active), vector="-1")
    for group, scale in scales.items():
        attributes = {
            "group": str(group),
            "min-val": f"{scale.low:g}",
            "max-val": f"{scale.high:g}",
            "opacity": "1",
            "interpolation-method": "none",
        }
        _add_shader(ET.SubElement(settings, "scalar-settings", attributes), scale)


def _add_shader(parent: ET.Element, scale: Scale, unit: str = UNIT_SUFFIX) -> None:
    """Add the ramp in both forms QGIS wants: as a ramp to edit and as items to draw."""
    attributes = {
        "colorRampType": "INTERPOLATED",
        "classificationMode": "1",
        "clip": "0",
        "minimumValue": f"{scale.low:g}",
        "maximumValue": f"{scale.high:g}",
        "labelPrecision": "2",
    }
    shader = ET.SubElement(parent, "colorrampshader", attributes)
    stops = scale.stops()
    ramp = ET.SubElement(shader, "colorramp", type="gradient", name="[source]")
    options = ET.SubElement(ramp, "Option", type="Map")
    inner = [(f"{(v - scale.low) / (scale.high - scale.low):g}", _rgba(colour)) for v, colour in stops[1:-1]]
    properties = {
        "color1": _rgba(stops[0][1]),
        "color2": _rgba(stops[-1][1]),
        "discrete": "0",
        "rampType": "gradient",
        "stops": ":".join(f"{share};{colour}" for share, colour in inner),
    }
    for name, text in properties.items():
        ET.SubElement(options, "Option", type="QString", name=name, value=text)
        ET.SubElement(ramp, "prop", k=name, v=text)  # QGIS before 3.24
    for value, colour in stops:
        ET.SubElement(shader, "item", color=colour, value=f"{value:g}", alpha="255", label=f"{value:g}")
    ET.SubElement(shader, "rampLegendSettings", useContinuousLegend="1", orientation="2", suffix=unit)


def _rgba(colour: str) -> str:
    """Return ``#rrggbb`` as QGIS writes it."""
    return ",".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5)) + ",255"

"""Load a layer definition as QGIS does and print what came of it as JSON; run by the system's Python, which has PyQGIS.

usage: python3 qgis_client.py FILE.qlr OUT.png [TIME]
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
from qgis.core import (
    QgsApplication,
    QgsDateTimeRange,
    QgsLayerDefinition,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsMeshLayer,
    QgsProject,
)
from qgis.PyQt.QtCore import QDateTime, QSize, Qt

app = QgsApplication([], False)
app.initQgis()
project = QgsProject.instance()
ok, message = QgsLayerDefinition.loadLayerDefinition(str(Path(sys.argv[1]).resolve()), project, project.layerTreeRoot())
report = {"ok": ok, "message": message, "layers": []}
shown = []
for node in project.layerTreeRoot().findLayers():
    layer = node.layer()
    mesh = isinstance(layer, QgsMeshLayer)
    entry = {
        "name": layer.name(),
        "valid": layer.isValid(),
        "crs": layer.crs().authid(),
        "visible": node.isVisible(),
        "timed": layer.temporalProperties().isActive(),
    }
    if mesh:
        active = layer.rendererSettings().activeScalarDatasetGroup()
        entry["group"] = layer.dataProvider().datasetGroupMetadata(active).name()
        scale = layer.rendererSettings().scalarSettings(active)
        entry["range"] = [scale.classificationMinimum(), scale.classificationMaximum()]
        extent = layer.temporalProperties().timeExtent()
        entry["times"] = [extent.begin().toString(Qt.ISODate), extent.end().toString(Qt.ISODate)]
    else:
        entry["range"] = [layer.renderer().classificationMin(), layer.renderer().classificationMax()]
        entry["bands"] = layer.bandCount()
    report["layers"].append(entry)
    if layer.isValid() and node.isVisible():
        shown.append(layer)
if shown:
    settings = QgsMapSettings()
    settings.setLayers(shown)
    settings.setExtent(shown[0].extent())
    settings.setOutputSize(QSize(800, 600))
    settings.setDestinationCrs(shown[0].crs())
    if len(sys.argv) > 3:
        start = QDateTime.fromString(sys.argv[3], Qt.ISODate)
        settings.setIsTemporal(True)
        settings.setTemporalRange(QgsDateTimeRange(start, start.addSecs(3600)))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    image.save(sys.argv[2])
    pixels = {image.pixel(x, y) for x in range(0, 800, 16) for y in range(0, 600, 12)}
    report["colours"] = len(pixels)
print("REPORT " + json.dumps(report))
sys.stdout.flush()
os._exit(0)

"""The map store, NetCDF, QGIS layers, quicklook and totals."""

"""The pure block predictor that sites and maps share."""

from fluxgrid.prediction.predictor import BLOCK, BlockState, Fluxes, Predictor

__all__ = ["BLOCK", "BlockState", "Fluxes", "Predictor"]

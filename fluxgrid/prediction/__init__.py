"""The pure block predictor that sites and maps share."""

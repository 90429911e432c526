"""KGML-ag: its five training steps and what they are trained on."""

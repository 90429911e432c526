"""Sites, cubes, gap filling, scaling, splits and windows."""

"""Measures of generated images: distances between feature sets, their intervals, and the copy rate."""

"""Merge weights by hand: a window in the browser, with the base and the merge beside each other."""

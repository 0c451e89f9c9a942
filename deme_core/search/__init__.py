"""Finding the merge weights w (Sec. 3.3): a first round nominates, a second one decides."""

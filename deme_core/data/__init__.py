"""Image sources: a name in the table -> uint8 images, split into a training and a held-out part."""

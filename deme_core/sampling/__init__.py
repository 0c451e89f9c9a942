"""A denoiser and a schedule -> images, one seed an image."""
